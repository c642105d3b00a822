"""Public list prices: the entries of genai-prices as Prices, with their tiers of service and tool calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from .prices import LONG_CACHE_WRITE_FACTOR, Prices, Rates

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Provider

_MICRO = 10**6

STANDARD_TIERS = frozenset(
    {
        "",  # the provider reports no tier
        "auto",  # OpenAI, in events before the tier is decided; its last event has the tier that was used
        "default",  # OpenAI: chat_completion.py, "the standard pricing and performance"
        "standard",  # Anthropic: usage.py; Google: service_tier of the Gemini API
        "standard_only",  # Anthropic: message_create_params.py
        "on_demand",  # Groq: https://console.groq.com/docs/service-tiers
    }
)
"""Words of providers for the tier that has the standard prices. The files are those of their SDKs.

Other words have prices only if the list has them. It has none for "scale" (OpenAI), "priority" (Anthropic)
and "performance" (Groq), which are sold by contract, nor for "ultrafast" (OpenAI).
"""
_STANDARD_PRICED_TIERS = frozenset(
    {
        (
            "groq",
            "flex",
        ),  # https://console.groq.com/docs/flex-processing: "Pricing matches on-demand"
    }
)
"""Tiers that have the standard prices at one seller."""
_TIER_CONTEXTS: Mapping[str, tuple[dict[str, str], ...]] = {
    "flex": ({"service_tier": "flex"},),
    "priority": ({"service_tier": "priority"},),
    "fast": ({"service_tier": "fast"}, {"speed": "fast"}),  # OpenAI's tier, and Anthropic's `speed`
    "batch": ({"processing": "batch"},),
}
"""How genai-prices names the tiers: the context that selects the variant of a price."""

_LISTED_TOOLS = {
    "web_search": "web_searches_kcount",
    "x_search": "social_searches_kcount",
    "file_search": "storage_searches_kcount",
    "code_execution": "code_executions_kcount",
    "code_interpreter": "code_executions_kcount",
}
"""The fields of genai-prices with the price of 1,000 calls of a tool."""
_FREE_TOOLS = frozenset(
    {
        # "Web fetch usage has no additional charges beyond standard token costs."
        # https://platform.claude.com/docs/en/agents-and-tools/tool-use/web-fetch-tool#usage-and-pricing
        ("anthropic", "web_fetch"),
        # "There are no additional fees involved per tool call."
        # https://developers.openai.com/api/docs/guides/tools-connectors-mcp
        ("openai", "mcp"),
    }
)
"""Tools of one seller whose calls cost only their tokens."""


def tier_of(word: str) -> str:
    """Return a tier in the form in which tiers are compared. An empty string is the standard tier."""
    tier = word.strip().lower()
    return "" if tier in STANDARD_TIERS else tier


class PublicPrices:
    """The prices of models in genai-prices, converted once."""

    def __init__(self) -> None:
        # By the identities of the list's objects, which live as long as the list.
        self._converted: dict[tuple[int, ...], Prices | None] = {}

    def prices(self, seller: Provider, model: ModelInfo, at: datetime, tier: str) -> Prices | None:
        """Return the prices of a model in a tier, as `tier_of` returns it. None: they are unknown."""
        if not model.prices:
            return None
        if (seller.id, tier) in _STANDARD_PRICED_TIERS:
            tier = ""
        standard = model.get_prices(at)
        if not tier:
            return self._convert(seller, standard, (id(standard),))
        for context in _TIER_CONTEXTS.get(tier, ()):
            variants = list(_active_variants(seller, model, at, context))
            if variants:
                key = (id(standard), *map(id, variants))
                return self._convert(seller, model.get_prices(at, context), key)
        return None

    def _convert(self, seller: Provider, price: ModelPrice, key: tuple[int, ...]) -> Prices | None:
        key = (id(seller), *key)
        if key not in self._converted:
            self._converted[key] = _prices(seller, price)
        return self._converted[key]


def _active_variants(
    seller: Provider, model: ModelInfo, at: datetime, context: Mapping[str, str]
) -> Iterator[PriceVariant]:
    """Yield the variants that apply in a context.

    Variants belong to the seller that lists the model. Another seller that refers to its prices may have
    other tiers, and genai-prices does not apply them there either.
    """
    if not any(listed is model for listed in seller.models):
        return
    for variant in model.price_variants or ():
        is_active = variant.constraint is None or variant.constraint.active(at)
        if is_active and all(context.get(key) == value for key, value in variant.when.items()):
            yield variant


def _prices(seller: Provider, price: ModelPrice) -> Prices | None:
    """Return None if a price is missing: a model without prices is not free."""
    from genai_prices.types import TieredPrices  # see `PriceBook.load`

    if price.input_mtok is None or price.output_mtok is None:
        return None
    if price.input_image_mtok is not None:  # a usage does not count tokens of images
        return None
    starts = {
        tier.start
        for value in vars(price).values()
        if isinstance(value, TieredPrices)
        for tier in value.tiers
    }
    rates = [_rates(price, above) for above in sorted({0, *starts})]
    if seller.id == "anthropic":
        rates = [_with_anthropics_rule(rate) for rate in rates]
    return Prices(rates, dict(_tool_prices(seller, price)))


def _tool_prices(seller: Provider, price: ModelPrice) -> Iterator[tuple[str, Decimal]]:
    """Yield the prices of one call of each tool, in microusd."""
    for tool, field in _LISTED_TOOLS.items():
        thousand = getattr(price, field)
        if isinstance(thousand, Decimal):
            yield tool, thousand * _MICRO / 1000
    yield from ((tool, Decimal(0)) for owner, tool in _FREE_TOOLS if owner == seller.id)


def _rates(price: ModelPrice, above_input_tokens: int) -> Rates:
    """Return the rates that genai-prices uses for inputs longer than that, up to the next tier.

    Within a tier the price is linear in each kind of token, so a few results of genai-prices give all
    rates. Its rules for tiers and for missing prices are not repeated here.
    """
    shortest = above_input_tokens + 1
    base = _microusd(price, input_tokens=shortest)
    input = _microusd(price, input_tokens=shortest + 1) - base

    def more(**tokens: int) -> Decimal:
        return _microusd(price, input_tokens=shortest, **tokens) - base

    return Rates(
        above_input_tokens=above_input_tokens,
        input=input,
        output=more(output_tokens=1),
        cache_read=input + more(cache_read_tokens=1),
        cache_write=input + more(cache_write_tokens=1),
        reasoning=more(output_tokens=1, output_reasoning_tokens=1),
        request=base - input * shortest,
        long_cache_write=(
            None
            if price.cache_write_1h_mtok is None
            else input + more(cache_write_tokens=1, cache_write_1h_tokens=1)
        ),
    )


def _with_anthropics_rule(rate: Rates) -> Rates:
    """Return rates with Anthropic's price of cache writes of an hour, if the list has none."""
    if rate.long_cache_write is not None:
        return rate
    return msgspec.structs.replace(rate, long_cache_write=LONG_CACHE_WRITE_FACTOR * rate.input)


def _microusd(price: ModelPrice, **tokens: int) -> Decimal:
    from genai_prices import Usage  # see `PriceBook.load`

    return price.calc_price(Usage(**tokens))["total_price"] * _MICRO


def moment(at: float) -> datetime:
    """Return seconds since the epoch as the time that genai-prices expects."""
    return datetime.fromtimestamp(at, UTC)
