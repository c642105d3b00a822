"""What one stream takes of its caller's limits."""

from __future__ import annotations

from ..events import Usage
from .limits import Allowance, Lease
from .spend import SpendHold


class Reservation:
    """A concurrent stream, the estimated tokens and the estimated cost. Settle or release it.

    A caller without limits reserves nothing.
    """

    __slots__ = ("_lease", "spend")

    def __init__(self, lease: Lease | None = None, spend: SpendHold | None = None) -> None:
        self._lease = lease
        self.spend = spend
        """The reserved part of the tenant's spend, or None if the spend is not limited."""

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """What was left of the caller's limits, except those on spend, when the reservation was made."""
        return () if self._lease is None else self._lease.allowances

    def release(self) -> None:
        """Give everything back: no stream was opened. Idempotent."""
        if self._lease is not None:
            self._lease.give_back()
        if self.spend is not None:
            self.spend.settle(0)
        self._lease = self.spend = None

    def settle(self, usage: Usage, estimated_microusd: int = 0, *, is_charged: bool = True) -> None:
        """Replace the likely figures by the actual ones: the stream has ended. Idempotent.

        If its cost is unknown, the reserved or the estimated cost counts, whichever is higher. Without
        `is_charged` it costs the operator nothing: the provider charges the tenant.
        """
        if self._lease is not None:
            self._lease.settle(usage.input_tokens + usage.output_tokens)
        if self.spend is not None:
            cost = usage.cost_microusd
            if cost is None:
                cost = max(self.spend.microusd, estimated_microusd)
            self.spend.settle(cost if is_charged else 0)
        self._lease = self.spend = None
