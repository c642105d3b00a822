"""Prices of tokens and of tool calls. Pure arithmetic that is exact until one rounding at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

import msgspec

from ..config import ModelPrices
from ..events import Usage

MAX_MICROUSD = 10**15
"""More than any stream costs, whatever usage a provider reports."""
UNLIMITED_TOKENS = 2**63 - 1
"""More than any answer has."""
LONG_CACHE_WRITE_FACTOR = 2
"""Price of input that Anthropic keeps in its cache for an hour, as a multiple of the price of other input.
https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pricing"""

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
    long_cache_write: Decimal | None = None
    """Price of a token that is kept in the cache for an hour. None: unknown."""


class PerMillion(msgspec.Struct, frozen=True, gc=False):
    """Prices of a million tokens of each kind for a short request, in microusd."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    long_cache_write: int | None


class _Scaled(msgspec.Struct, frozen=True, gc=False):
    """Rates as integers, in a fraction of a microusd."""

    above_input_tokens: int
    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int
    request: int
    long_cache_write: int


class Prices:
    """The prices of one model in one tier of service at one time.

    Costs are whole microusd (millionths of a US dollar), rounded half up. If a usage is inconsistent, such
    as more tokens from the cache than input tokens, the larger figure counts. So an error of a provider
    never makes a stream cheaper.

    The cost of a usage that the prices do not cover is too low: see `covers`.
    """

    __slots__ = ("_brackets", "_has_long_cache_write", "_scale", "_tools", "per_million")

    def __init__(self, rates: Sequence[Rates], tools: Mapping[str, Decimal] | None = None) -> None:
        """`rates` are sorted by `above_input_tokens`, beginning with 0. `tools` are prices of one call of
        a tool that the provider runs, in microusd, by name.
        """
        self._has_long_cache_write = all(rate.long_cache_write is not None for rate in rates)
        rates = [_with_long_cache_write(rate) for rate in rates]
        names = [name for name in Rates.__struct_fields__ if name != "above_input_tokens"]
        figures = [Fraction(getattr(rate, name)) for rate in rates for name in names]
        calls = {name: Fraction(price) for name, price in (tools or {}).items()}
        self._scale = math.lcm(*(figure.denominator for figure in (*figures, *calls.values())))
        self._tools = {name: int(price * self._scale) for name, price in calls.items()}
        self._brackets = tuple(
            _Scaled(
                rate.above_input_tokens,
                *(int(Fraction(getattr(rate, name)) * self._scale) for name in names),
            )
            for rate in rates
        )
        short = self._brackets[0]
        self.per_million = PerMillion(
            input=self._per_million(short.input),
            output=self._per_million(short.output),
            cache_read=self._per_million(short.cache_read),
            cache_write=self._per_million(short.cache_write),
            reasoning=self._per_million(short.reasoning),
            long_cache_write=(
                self._per_million(short.long_cache_write) if self._has_long_cache_write else None
            ),
        )

    @classmethod
    def configured(cls, prices: ModelPrices, factor: Decimal = Decimal(1)) -> Prices:
        """Return the prices of an operator, with those of tokens multiplied by a factor.

        A missing price is that of input or output; for cache writes of an hour it is twice that of input.
        """
        long_cache_write = _or(prices.cache_write_1h, LONG_CACHE_WRITE_FACTOR * prices.input)
        return cls(
            [
                Rates(
                    above_input_tokens=0,
                    input=prices.input * factor,
                    output=prices.output * factor,
                    cache_read=_or(prices.cache_read, prices.input) * factor,
                    cache_write=_or(prices.cache_write, prices.input) * factor,
                    reasoning=_or(prices.reasoning, prices.output) * factor,
                    long_cache_write=long_cache_write * factor,
                )
            ],
            {name: usd * 10**6 for name, usd in prices.server_tool_usd.items()},
        )

    def covers(self, usage: Usage) -> bool:
        """Return whether everything in a usage has a price."""
        if usage.long_cache_write_tokens and not self._has_long_cache_write:
            return False
        return all(name in self._tools or count <= 0 for name, count in usage.server_tools)

    def cost_microusd(self, usage: Usage) -> int:
        """Return the cost of a usage."""
        scaled, _ = self._scaled_cost(usage, usage.output_tokens)
        return self._rounded(scaled)

    def exact_cost_microusd(self, usage: Usage) -> Fraction:
        """Return the cost of a usage before it is rounded."""
        scaled, _ = self._scaled_cost(usage, usage.output_tokens)
        return Fraction(scaled, self._scale)

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
        long_written = usage.long_cache_write_tokens or 0
        written = max((usage.cache_write_tokens or 0) - long_written, 0)
        reasoning = usage.reasoning_tokens or 0
        uncached = max(usage.input_tokens - read - written - long_written, 0)
        bracket = self._bracket(uncached + read + written + long_written)
        scaled = (
            bracket.request
            + uncached * bracket.input
            + read * bracket.cache_read
            + written * bracket.cache_write
            + long_written * bracket.long_cache_write
            + reasoning * bracket.reasoning
            + max(output_tokens - reasoning, 0) * bracket.output
        )
        for name, count in usage.server_tools:
            scaled += max(count, 0) * self._tools.get(name, 0)
        return scaled, bracket

    def _bracket(self, input_tokens: int) -> _Scaled:
        for bracket in reversed(self._brackets):
            if input_tokens > bracket.above_input_tokens:
                return bracket
        return self._brackets[0]

    def _per_million(self, scaled: int) -> int:
        return self._rounded(scaled * _TOKENS_PER_PRICE)

    def _rounded(self, scaled: int) -> int:
        return min((scaled + self._scale // 2) // self._scale, MAX_MICROUSD)


def _or(price: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if price is None else price


def _with_long_cache_write(rate: Rates) -> Rates:
    """Return rates in which an unknown price of long cache writes is that of other cache writes."""
    if rate.long_cache_write is not None:
        return rate
    return msgspec.structs.replace(rate, long_cache_write=rate.cache_write)
