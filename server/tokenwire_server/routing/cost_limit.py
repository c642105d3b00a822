"""The limit on the cost of a running answer."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ..events import Usage
from ..pricing.prices import UNLIMITED_TOKENS
from ..pricing.tariff import Tariff
from ..pricing.tokenizers import NEW_CLAUDE_PERCENT

MAX_CHAR_TOKENS = -(-4 * NEW_CLAUDE_PERCENT // 100)
"""Most tokens of one character: it has at most 4 bytes, and a token has at least one. Some models are counted
with the vocabulary of another model, so each of those tokens counts for more."""
EXTENSION_TOKENS = 1024
"""Tokens for which a stream reserves more spend when its answer has used its reservation."""
AHEAD_TOKENS = 64
"""Tokens for which a stream has reserved spend before they arrive, at least. All tokens that arrive at once
are charged, so without this each of many streams could exceed the limit by its last arrival."""


class SpendReservation(Protocol):
    """What a stream has reserved of its tenant's spend."""

    @property
    def microusd(self) -> int:
        """The reserved amount."""
        ...

    @property
    def is_only(self) -> bool:
        """Whether no other stream of the tenant in this process has reserved anything."""
        ...

    def extend(self, to_microusd: int) -> bool:
        """Raise the reservation to an amount. Return False, and change nothing, if too little is left, or if
        other processes must be told first, which takes milliseconds.
        """
        ...

    def fits(self, to_microusd: int) -> bool:
        """Return whether enough is left to raise the reservation to an amount."""
        ...


class CostLimit:
    """Stops an answer at a limit on its cost: the request's budget, or the tenant's spend.

    Counting and pricing tokens takes microseconds, so it is not done at each arrival. It is done when the
    answer is long enough to have reached a limit: a few times in an answer that stays far below its limit,
    and at every arrival shortly before the limit. It is also done when the provider reports new figures,
    because these may include tokens that were not streamed.

    With a reservation, the tokens that may arrive next are reserved before they arrive: as many as since the
    last check, and at least AHEAD_TOKENS. If too little is left for them, the answer stops, unless it is
    the tenant's only one: that one may exceed the limit by one arrival.

    A part of the usage that has no known price does not stop the answer: see
    `Tariff.estimated_cost_microusd`.
    """

    __slots__ = (
        "_before_microusd",
        "_budget",
        "_checked_tokens",
        "_max_output_tokens",
        "_reservation",
        "_tariff",
        "check_at_chars",
    )

    def __init__(
        self,
        tariff: Tariff,
        max_cost_microusd: int | None,
        reservation: SpendReservation | None,
        *,
        before_microusd: int = 0,
        max_output_tokens: int | None = None,
    ) -> None:
        """At least one of `max_cost_microusd`, the request's budget, and `reservation` must be given.
        `before_microusd` is the cost of the stream's earlier attempts, to which the limits apply, too.
        Nothing is reserved for more than `max_output_tokens` unless they arrive. None: unknown.
        """
        self._before_microusd = before_microusd
        self._checked_tokens = 0
        self._max_output_tokens = max_output_tokens
        self._tariff = tariff
        self._budget = max_cost_microusd
        self._reservation = reservation
        self.check_at_chars = 0
        """Length of the answer, in characters, at which `reserve_or_stop` must be called next."""

    def reserve_or_stop(self, usage: Usage, chars: int, *, only_figures: bool = False) -> bool:
        """Reserve what an answer of `chars` characters needs. Return True if it must stop instead.

        `only_figures`: the provider reported its usage without content, usually because the answer is
        complete. Then nothing is reserved for next tokens.
        """
        ahead_tokens = max(AHEAD_TOKENS, usage.output_tokens - self._checked_tokens)
        self._checked_tokens = usage.output_tokens
        cost_microusd = self._cost(usage)
        if self._budget is not None and cost_microusd > self._budget:
            return True
        if self._reservation is not None and not self._reserve(
            self._reservation, usage, cost_microusd, 0 if only_figures else ahead_tokens
        ):
            return True
        self.check_at_chars = chars + self._safe_chars(usage, ahead_tokens)
        return False

    def _reserve(
        self,
        reservation: SpendReservation,
        usage: Usage,
        cost_microusd: int,
        ahead_tokens: int,
    ) -> bool:
        """Reserve the cost so far, and that of the next tokens. Return False if too little is left."""
        needed_microusd = self._cost_ahead(usage, ahead_tokens)
        if needed_microusd <= reservation.microusd:
            return True
        if reservation.extend(self._cost_ahead(usage, max(ahead_tokens, EXTENSION_TOKENS))):
            return True
        if reservation.extend(needed_microusd):
            return True
        if cost_microusd > reservation.microusd and not reservation.extend(cost_microusd):
            return False
        return reservation.is_only or reservation.fits(needed_microusd)

    def _safe_chars(self, usage: Usage, ahead_tokens: int) -> int:
        """Return after how many more characters, at least 1, the limits must be checked again."""
        limits_microusd = [] if self._budget is None else [self._budget]
        if self._reservation is None:
            ahead_tokens = 0
        else:
            limits_microusd.append(self._reservation.microusd)
            if self._cost_ahead(usage, UNLIMITED_TOKENS) <= self._reservation.microusd:
                ahead_tokens = 0
        left_microusd = max(0, min(limits_microusd) - self._before_microusd)
        ceiling = self._tariff.output_token_ceiling(usage, left_microusd)
        # Check one character early: more text can change the tokens of the text before it by one or two.
        return max(1, (ceiling - ahead_tokens - usage.output_tokens) // MAX_CHAR_TOKENS)

    def _cost(self, usage: Usage) -> int:
        return self._before_microusd + self._tariff.estimated_cost_microusd(usage)

    def _cost_ahead(self, usage: Usage, more_tokens: int) -> int:
        """Return the cost with more tokens, if the answer may have them and the budget allows them."""
        output_tokens = usage.output_tokens + more_tokens
        if self._max_output_tokens is not None:
            output_tokens = max(usage.output_tokens, min(output_tokens, self._max_output_tokens))
        cost_microusd = self._cost(msgspec.structs.replace(usage, output_tokens=output_tokens))
        return cost_microusd if self._budget is None else min(cost_microusd, self._budget)
