"""The memory of all logs of this process."""

from __future__ import annotations

from collections.abc import Callable

from ..shares import SharedBound

LITTLE = 16
"""A tenant that takes less than this part of the bound, a sixteenth, takes little."""


class LogSpace:
    """Counts the bytes of all logs, by tenant, against `max_bytes`.

    Taking space never fails and never waits, because a log never blocks its upstream. Beyond the bound,
    `make_room` is called, which drops what it can. `full` is set if that was not enough.

    Tenants share the bound, see `SharedBound`. Because the logs of open streams can grow beyond it, a tenant
    that takes little of it may open streams also while it is full.
    """

    def __init__(
        self,
        max_bytes: int,
        make_room: Callable[[], None],
        has_tenants: Callable[[], bool] = lambda: False,
    ) -> None:
        self.max_bytes = max_bytes
        self._bytes = SharedBound(max_bytes, has_tenants)
        self._make_room = make_room
        self._has_tenants = has_tenants

    @property
    def used_bytes(self) -> int:
        """The bytes of all logs."""
        return self._bytes.used

    @property
    def full(self) -> bool:
        """Whether the bound is reached."""
        return self._bytes.is_full

    def takes_little(self, tenant: str) -> bool:
        """Return whether a tenant takes so little that it loses nothing while others take too much."""
        return self._has_tenants() and self._bytes.used_by(tenant) * LITTLE < self.max_bytes

    def may_open(self, tenant: str) -> bool:
        """Return whether a tenant may open another stream."""
        return self._bytes.may_take(tenant) or self.takes_little(tenant)

    def take(self, count: int, tenant: str = "") -> None:
        """Count bytes as used."""
        self._bytes.take(tenant, count)
        if self._bytes.used > self.max_bytes:
            self._make_room()

    def give(self, count: int, tenant: str = "") -> None:
        """Count bytes as free."""
        self._bytes.give(tenant, count)
