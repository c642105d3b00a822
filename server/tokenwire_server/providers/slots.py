"""The bound on the requests that are open at one provider."""

from __future__ import annotations

from ..errors import ProviderBusy


class ConnectionSlots:
    """Counts the open requests of one provider. Each has a connection of its own.

    A request above the maximum is refused at once. There is no queue: it would delay the first token without
    a reason that the caller can see, and grow when the provider is slow.
    """

    __slots__ = ("_max_count", "_provider", "in_use")

    def __init__(self, provider: str, max_count: int | None = None) -> None:
        """Without `max_count`, requests are only counted."""
        self._provider = provider
        self._max_count = max_count
        self.in_use = 0
        """The number of requests that are open."""

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused."""
        return self._max_count is not None and self.in_use >= self._max_count

    def acquire(self) -> None:
        """Take a slot. Call `release` once when the request has ended. Raises ProviderBusy."""
        if self.is_full:
            raise self.refusal()
        self.in_use += 1

    def refusal(self) -> ProviderBusy:
        """Return the error of a request for which no slot is free."""
        return ProviderBusy(self._provider, limit=self._max_count or 0)

    def release(self) -> None:
        """Return a slot."""
        self.in_use -= 1
