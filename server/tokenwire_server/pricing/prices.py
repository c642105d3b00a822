"""Prices of tokens. Pure arithmetic that is exact until one rounding at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import msgspec

from ..config import ModelPrices
from ..events import Usage

MAX_MICROUSD = 10**15
"""More than any stream costs, whatever usage a provider reports."""
UNLIMITED_TOKENS = 2**63 - 1
"""More than any answer has."""

_TOKENS_PER_PRICE = 10**6


class Rates(msgspec.Struct, frozen=True, gc=False):
    """Prices of one token of each kind. US dollars per million tokens are microusd per token.

    They apply to all tokens of a request, and of its answer, if the input is longer than
    `above_input_tokens`.
    """

    above_input_tokens: int
    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    reasoning: Decimal
    request: Decimal = Decimal(0)
    """Microusd for each request."""


class PerMillion(msgspec.Struct, frozen=True, gc=False):
    """Prices of a million tokens of each kind for a short request, in microusd."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int


class _Scaled(msgspec.Struct, frozen=True, gc=False):
    """Rates as integers, in a fraction of a microusd."""

    above_input_tokens: int
    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    request: int


class Prices:
    """The prices of one model at one time.

    Costs are whole microusd (millionths of a US dollar), rounded half up. If a usage is inconsistent, such
    as more tokens from the cache than input tokens, the larger figure counts. So an error of a provider
    never makes a stream cheaper.
    """

    __slots__ = ("_brackets", "_scale", "per_million")

    def __init__(self, rates: Sequence[Rates]) -> None:
        """`rates` are sorted by `above_input_tokens`, beginning with 0."""
        names = [name for name in Rates.__struct_fields__ if name != "above_input_tokens"]
        figures = [Fraction(getattr(rate, name)) for rate in rates for name in names]
        self._scale = math.lcm(*(figure.denominator for figure in figures))
        self._brackets = tuple(
            _Scaled(
                rate.above_input_tokens,
                *(int(Fraction(getattr(rate, name)) * self._scale) for name in names),
            )
            for rate in rates
        )
        self.per_million = PerMillion(
            *(
                self._rounded(getattr(self._brackets[0], name) * _TOKENS_PER_PRICE)
                for name in PerMillion.__struct_fields__
            )
        )

    @classmethod
    def configured(cls, prices: ModelPrices) -> Prices:
        """Return the prices of an operator. A missing price is that of input or output."""
        return cls(
            [
                Rates(
                    above_input_tokens=0,
                    input=prices.input,
                    output=prices.output,
                    cache_read=_or(prices.cache_read, prices.input),
                    cache_write=_or(prices.cache_write, prices.input),
                    reasoning=_or(prices.reasoning, prices.output),
                )
            ]
        )

    def cost_microusd(self, usage: Usage) -> int:
        """Return the cost of a usage."""
        scaled, _ = self._scaled_cost(usage, usage.output_tokens)
        return self._rounded(scaled)

    def output_token_ceiling(self, usage_so_far: Usage, max_cost_microusd: int) -> int:
        """Return the highest number of output tokens for which the cost stays within a limit; 0 if none does.

        It is consistent with `cost_microusd` to the token. If output is free, return UNLIMITED_TOKENS.
        """
        reasoning_tokens = usage_so_far.reasoning_tokens or 0
        spent, bracket = self._scaled_cost(usage_so_far, reasoning_tokens)
        # The highest cost that still rounds down to the limit.
        left = (max_cost_microusd + 1) * self._scale - self._scale // 2 - 1 - spent
        if left < 0:
            return 0
        if bracket.output == 0:
            return UNLIMITED_TOKENS
        return min(reasoning_tokens + left // bracket.output, UNLIMITED_TOKENS)

    def _scaled_cost(self, usage: Usage, output_tokens: int) -> tuple[int, _Scaled]:
        read = usage.cache_read_tokens or 0
        written = usage.cache_write_tokens or 0
        reasoning = usage.reasoning_tokens or 0
        uncached = max(usage.input_tokens - read - written, 0)
        bracket = self._bracket(uncached + read + written)
        scaled = (
            bracket.request
            + uncached * bracket.input
            + read * bracket.cache_read
            + written * bracket.cache_write
            + reasoning * bracket.reasoning
            + max(output_tokens - reasoning, 0) * bracket.output
        )
        return scaled, bracket

    def _bracket(self, input_tokens: int) -> _Scaled:
        for bracket in reversed(self._brackets):
            if input_tokens > bracket.above_input_tokens:
                return bracket
        return self._brackets[0]

    def _rounded(self, scaled: int) -> int:
        return min((scaled + self._scale // 2) // self._scale, MAX_MICROUSD)


def _or(price: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if price is None else price
