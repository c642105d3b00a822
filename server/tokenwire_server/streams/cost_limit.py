"""What a running stream may still cost."""

from __future__ import annotations

import msgspec

from ..events import Usage
from ..pricing.prices import Prices
from ..pricing.tokenizers import NEW_CLAUDE_PERCENT
from ..tenants.spend import SpendHold

MAX_CHAR_TOKENS = -(-4 * NEW_CLAUDE_PERCENT // 100)
"""A character is at most 4 bytes, and a token at least one: of the vocabulary that counts it, which for
some models is not their own, so that each counts for more."""
EXTENSION_TOKENS = 1024
"""For how many more tokens a stream reserves when its answer grows past what it has."""


class CostLimit:
    """Says when a stream has to end because of its cost: its request's budget, or its tenant's spend.

    Counting the tokens and pricing them takes microseconds. It is done only once so many characters have
    come that a limit can have been passed: a few times in a stream that stays far below, and at every
    arrival just before its end; and whenever the provider tells new figures, which may leap by tokens that
    it does not show.
    """

    __slots__ = ("_budget", "_hold", "_prices", "check_at_chars")

    def __init__(
        self, prices: Prices, max_cost_microusd: int | None, hold: SpendHold | None
    ) -> None:
        self._prices = prices
        self._budget = max_cost_microusd
        self._hold = hold
        self.check_at_chars = 0
        """How long the answer has to be before `passed` can have anything new to say."""

    def passed(self, usage: Usage, chars: int) -> bool:
        """Whether a stream that has used so much, with an answer of so many characters, must end."""
        cost_microusd = self._prices.cost_microusd(usage)
        if cost_microusd > self._most and not self._extended(usage, cost_microusd):
            return True
        self.check_at_chars = chars + self._safe_chars(usage)
        return False

    @property
    def _most(self) -> int:
        limits = (self._budget, self._hold.microusd if self._hold is not None else None)
        return min(limit for limit in limits if limit is not None)

    def _safe_chars(self, usage: Usage) -> int:
        """How many more characters, at least 1, can cost too much at their end at the earliest."""
        ceiling = self._prices.output_token_ceiling(usage, self._most)
        # What goes unchecked is a character less: room for what a new ending may change in how the text
        # before it falls into tokens, which is one or two.
        return max(1, (ceiling - usage.output_tokens) // MAX_CHAR_TOKENS)

    def _extended(self, usage: Usage, cost_microusd: int) -> bool:
        """More of the tenant's spend is reserved, unless the request's own budget is passed."""
        budget = self._budget
        if self._hold is None or (budget is not None and cost_microusd > budget):
            return False
        more = msgspec.structs.replace(usage, output_tokens=usage.output_tokens + EXTENSION_TOKENS)
        wished_microusd = self._prices.cost_microusd(more)
        if budget is not None:
            wished_microusd = min(wished_microusd, budget)
        return self._hold.extend(wished_microusd) or self._hold.extend(cost_microusd)
