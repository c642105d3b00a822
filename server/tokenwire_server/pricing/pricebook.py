"""Lookup of a model's prices: the operator's, or else those of the bundled genai-prices."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from ..config import ModelConfig, ProviderConfig
from .prices import Prices, Rates

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider

MAX_FOUND = 1000
"""Models whose prices are cached. Callers may name any model."""

_KNOWN_BY_NAME = {"openai": "openai", "openai-responses": "openai", "anthropic": "anthropic"}

_MICRO = 10**6


class PriceBook:
    """The prices of models.

    The first of these is used: the prices configured for the requested name, for the `provider/model` of
    which it is an alias, for the `provider/model` that serves it, and the prices of genai-prices, a list
    of public prices that comes with its package. Nothing is fetched.

    The base URL of a provider selects its public prices. If it is not in the list, such as that of a proxy
    or a simulator, the providers named `openai`, `openai-responses` and `anthropic` use the public prices
    of OpenAI and Anthropic, because a proxy usually forwards to them. Models of other providers have no
    price unless one is configured.

    Public prices are standard prices. They do not include batch or priority tiers, discounts, prompt cache
    writes that last longer than 5 minutes, and fees of tools that a provider runs.
    """

    def __init__(
        self, models: Mapping[str, ModelConfig], providers: Mapping[str, ProviderConfig]
    ) -> None:
        self._models = models
        self._providers = providers
        self._configured = {
            name: Prices.configured(config.prices)
            for name, config in models.items()
            if config.prices is not None
        }
        self._snapshot: DataSnapshot | None = None
        self._sellers: dict[str, Provider] = {}
        self._public: dict[int, Prices | None] = {}  # by identity of the snapshot's prices
        # A search takes 0.1 ms.
        self._listed = functools.lru_cache(MAX_FOUND)(self._find)

    async def load(self) -> None:
        """Load genai-prices in a thread, in about 0.25 s. Await it before serving.

        Otherwise the first lookup of a model without a configured price loads it and blocks the event loop.
        """
        await asyncio.to_thread(self._load)

    def prices(self, provider_name: str, model: str, asked: str, at: float) -> Prices | None:
        """Return the prices of `model`, the provider's name, at the time `at` (seconds since the epoch).

        `asked` is the requested alias or `provider/model`. None: the prices are unknown.
        """
        for name in self._names(provider_name, model, asked):
            if name in self._configured:
                return self._configured[name]
        found = self._listed(provider_name, model)
        if found is None or not found.prices:
            return None
        price = found.get_prices(datetime.fromtimestamp(at, UTC))
        if id(price) not in self._public:
            self._public[id(price)] = _public_prices(price)
        return self._public[id(price)]

    def _names(self, provider_name: str, model: str, asked: str) -> Iterator[str]:
        yield asked
        if asked in self._models:
            yield self._models[asked].target
        yield f"{provider_name}/{model}"

    def _find(self, provider_name: str, model: str) -> ModelInfo | None:
        snapshot = self._snapshot or self._load()
        seller = self._sellers.get(provider_name)
        if seller is None:
            return None
        return seller.find_model(model, all_providers=snapshot.providers)

    def _load(self) -> DataSnapshot:
        from genai_prices.data_snapshot import get_snapshot  # see `load`

        snapshot = get_snapshot()
        for name, config in self._providers.items():
            seller = _seller(snapshot, name, config)
            if seller is not None:
                self._sellers[name] = seller
        self._snapshot = snapshot
        return snapshot


def _seller(snapshot: DataSnapshot, name: str, config: ProviderConfig) -> Provider | None:
    """Return the entry of genai-prices for a provider."""
    try:
        return snapshot.find_provider(None, None, config.base_url)
    except LookupError:
        known = _KNOWN_BY_NAME.get(name)
        return snapshot.find_provider(None, known, None) if known else None


def _public_prices(price: ModelPrice) -> Prices | None:
    """Return None if a price is missing: a model without prices is not free."""
    from genai_prices.types import TieredPrices  # see `load`

    if price.input_mtok is None or price.output_mtok is None:
        return None
    if price.input_image_mtok is not None:  # a usage does not count tokens of images
        return None
    tiers = {
        tier.start
        for value in vars(price).values()
        if isinstance(value, TieredPrices)
        for tier in value.tiers
    }
    return Prices([_rates(price, above) for above in sorted({0, *tiers})])


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
    )


def _microusd(price: ModelPrice, **tokens: int) -> Decimal:
    from genai_prices import Usage  # see `load`

    return price.calc_price(Usage(**tokens))["total_price"] * _MICRO
