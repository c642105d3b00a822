"""The limit on the cost of a running answer."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ..events import Usage
from ..pricing.tariff import Tariff
from ..pricing.tokenizers import NEW_CLAUDE_PERCENT

MAX_CHAR_TOKENS = -(-4 * NEW_CLAUDE_PERCENT // 100)
"""Most tokens of one character: it has at most 4 bytes, and a token has at least one. Some models are counted
with the vocabulary of another model, so each of those tokens counts for more."""
EXTENSION_TOKENS = 1024
"""Tokens for which a stream reserves more spend when its answer has used its reservation."""


class SpendReservation(Protocol):
    """What a stream has reserved of its tenant's spend."""

    @property
    def microusd(self) -> int:
        """The reserved amount."""
        ...

    def extend(self, to_microusd: int) -> bool:
        """Raise the reservation to an amount. Return False, and change nothing, if too little is left."""
        ...


class CostLimit:
    """Stops an answer at a limit on its cost: the request's budget, or the tenant's spend.

    Counting and pricing tokens takes microseconds, so it is not done at each arrival. It is done when the
    answer is long enough to have reached a limit: a few times in an answer that stays far below its limit,
    and at every arrival shortly before the limit. It is also done when the provider reports new figures,
    because these may include tokens that were not streamed.

    A part of the usage that has no known price does not stop the answer: see
    `Tariff.estimated_cost_microusd`.
    """

    __slots__ = ("_before_microusd", "_budget", "_reservation", "_tariff", "check_at_chars")

    def __init__(
        self,
        tariff: Tariff,
        max_cost_microusd: int | None,
        reservation: SpendReservation | None,
        *,
        before_microusd: int = 0,
    ) -> None:
        """At least one of `max_cost_microusd`, the request's budget, and `reservation` must be given.
        `before_microusd` is the cost of the stream's earlier attempts, to which the limits apply, too.
        """
        self._before_microusd = before_microusd
        self._tariff = tariff
        self._budget = max_cost_microusd
        self._reservation = reservation
        self.check_at_chars = 0
        """Length of the answer, in characters, at which `reserve_or_stop` must be called next."""

    def reserve_or_stop(self, usage: Usage, chars: int) -> bool:
        """Reserve what an answer of `chars` characters needs. Return True if it must stop instead."""
        cost_microusd = self._before_microusd + self._tariff.estimated_cost_microusd(usage)
        if cost_microusd > self._limit_microusd and not self._extend(usage, cost_microusd):
            return True
        self.check_at_chars = chars + self._safe_chars(usage)
        return False

    @property
    def _limit_microusd(self) -> int:
        reserved = None if self._reservation is None else self._reservation.microusd
        return min(limit for limit in (self._budget, reserved) if limit is not None)

    def _safe_chars(self, usage: Usage) -> int:
        """Return after how many more characters, at least 1, the limit must be checked again."""
        left_microusd = max(0, self._limit_microusd - self._before_microusd)
        ceiling = self._tariff.output_token_ceiling(usage, left_microusd)
        # Check one character early: more text can change the tokens of the text before it by one or two.
        return max(1, (ceiling - usage.output_tokens) // MAX_CHAR_TOKENS)

    def _extend(self, usage: Usage, cost_microusd: int) -> bool:
        """Reserve more of the tenant's spend, unless the request's own budget is exceeded."""
        budget, reservation = self._budget, self._reservation
        if reservation is None or (budget is not None and cost_microusd > budget):
            return False
        more = msgspec.structs.replace(usage, output_tokens=usage.output_tokens + EXTENSION_TOKENS)
        wanted_microusd = self._before_microusd + self._tariff.estimated_cost_microusd(more)
        if budget is not None:
            wanted_microusd = min(wanted_microusd, budget)
        return reservation.extend(wanted_microusd) or reservation.extend(cost_microusd)
