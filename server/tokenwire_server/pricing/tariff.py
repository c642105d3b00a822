"""What one request costs: the prices of its model, and of other models that may work on its answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

import msgspec

from ..events import Usage
from .prices import MAX_MICROUSD, UNLIMITED_TOKENS, Prices
from .public_prices import tier_of

Lookup = Callable[[str, str], Prices | None]
"""Returns the prices of a model in a service tier. None: they are unknown."""

_SNAPSHOT = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2})$")
"""The date at the end of the name of a model's snapshot, as in claude-opus-4-5-20251101."""


def _unknown(model: str, tier: str) -> None:  # noqa: ARG001
    return None


class Tariff:
    """The prices that apply to one request.

    They depend on the usage: on the tier of service that the provider reports, on the models that worked
    on the answer, and on the tools that the provider ran.
    """

    __slots__ = (
        "_asked_tier",
        "_in_tier",
        "_lookup",
        "_model",
        "_standard",
        "_tier",
        "_tier_prices",
    )

    def __init__(
        self,
        standard: Prices,
        *,
        model: str = "",
        asked_tier: str = "",
        in_tier: Callable[[str], Prices | None] | None = None,
        lookup: Lookup = _unknown,
    ) -> None:
        """`standard` are the prices of `model` in the standard tier, `in_tier` returns those in another one,
        and `lookup` returns those of other models of the provider. `asked_tier` is the requested tier. It
        applies until the provider reports one.
        """
        self._standard = standard
        self._model = model
        self._asked_tier = asked_tier
        self._in_tier = in_tier or (lambda tier: None if tier_of(tier) else standard)
        self._lookup = lookup
        self._tier = ""
        self._tier_prices: Prices | None = standard

    def cost_microusd(self, usage: Usage) -> int | None:
        """Return the cost of a usage. None: a part of it has no known price."""
        if not usage.by_model:
            prices = self._own(usage.service_tier)
            if prices is None or not prices.covers(usage):
                return None
            return prices.cost_microusd(usage)
        whole = Fraction(0)
        for prices, part in self._parts(usage):
            if prices is None or not prices.covers(part):
                return None
            whole += prices.exact_cost_microusd(part)
        return _rounded(whole)

    def estimated_cost_microusd(self, usage: Usage) -> int:
        """Return the cost of a usage for comparing it with a limit.

        It differs from the cost if a part has no known price: tokens then count at the standard prices of
        the requested model, and calls of tools are left out.
        """
        if not usage.by_model:
            return (self._own(usage.service_tier) or self._standard).cost_microusd(usage)
        return _rounded(self._exact_estimate(self._parts(usage)))

    def output_token_ceiling(self, usage_so_far: Usage, max_cost_microusd: int) -> int:
        """Return the highest number of output tokens for which the estimated cost stays within a limit; 0 if
        none does. If output is free, return UNLIMITED_TOKENS.
        """
        prices = self._own(usage_so_far.service_tier) or self._standard
        if not usage_so_far.by_model:
            return prices.output_token_ceiling(usage_so_far, max_cost_microusd)
        spent_microusd = self._exact_estimate(self._models(usage_so_far))
        if spent_microusd > max_cost_microusd:
            return 0
        left_microusd = int(max_cost_microusd - spent_microusd)
        more = prices.output_token_ceiling(_rest(usage_so_far), left_microusd)
        before = sum(part.output_tokens for _, part in usage_so_far.by_model)
        return min(before + more, UNLIMITED_TOKENS)

    def _own(self, reported_tier: str) -> Prices | None:
        """Return the prices of the requested model. The tier rarely changes, so they are looked up once."""
        tier = reported_tier or self._asked_tier
        if tier != self._tier:
            self._tier, self._tier_prices = tier, self._in_tier(tier)
        return self._tier_prices

    def _parts(self, usage: Usage) -> Iterator[tuple[Prices | None, Usage]]:
        """Yield the usage of each model with its prices, then the rest, which belongs to the requested model:
        what came after the provider's latest figures, and the tools.
        """
        yield from self._models(usage)
        rest = _rest(usage)
        if rest != Usage(0, 0):
            yield self._own(usage.service_tier), rest

    def _models(self, usage: Usage) -> Iterator[tuple[Prices | None, Usage]]:
        for model, part in usage.by_model:
            tier = part.service_tier or usage.service_tier or self._asked_tier
            prices = self._own(tier) if self._is_own(model) else self._lookup(model, tier)
            yield prices, msgspec.structs.replace(part, server_tools=())

    def _exact_estimate(self, parts: Iterator[tuple[Prices | None, Usage]]) -> Fraction:
        return sum(
            ((prices or self._standard).exact_cost_microusd(part) for prices, part in parts),
            Fraction(0),
        )

    def _is_own(self, model: str) -> bool:
        own = self._model
        return model in ("", own) or own == undated(model) or model == undated(own)


def undated(model: str) -> str:
    """Return the name of a model without the date of its snapshot."""
    return _SNAPSHOT.sub("", model)


def _rest(usage: Usage) -> Usage:
    """Return the usage without that of its models.

    Some figures are reported only for the whole answer, such as reasoning tokens. They are already contained
    in other figures of the models. So each figure is at most the one that contains it.
    """

    def rest(name: str, most: int) -> int:
        whole: int = getattr(usage, name) or 0
        return min(
            max(whole - sum(getattr(part, name) or 0 for _, part in usage.by_model), 0), most
        )

    input_tokens = rest("input_tokens", usage.input_tokens)
    output_tokens = rest("output_tokens", usage.output_tokens)
    written = rest("cache_write_tokens", input_tokens)
    return Usage(
        input_tokens,
        output_tokens,
        reasoning_tokens=rest("reasoning_tokens", output_tokens) or None,
        cache_read_tokens=rest("cache_read_tokens", input_tokens - written) or None,
        cache_write_tokens=written or None,
        long_cache_write_tokens=rest("long_cache_write_tokens", written) or None,
        server_tools=usage.server_tools,
    )


def _rounded(microusd: Fraction) -> int:
    return min(int(microusd + Fraction(1, 2)), MAX_MICROUSD)
