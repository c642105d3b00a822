"""Whose prices hold for a stream: the operator's, else those of the bundled genai-prices."""

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
"""Models that are remembered, known or not: callers may name any."""

_KNOWN_BY_NAME = {"openai": "openai", "openai-responses": "openai", "anthropic": "anthropic"}

_MICRO = 10**6


class PriceBook:
    """What each model costs.

    In this order: the prices configured for the name that was asked for, for the `provider/model`
    that it is an alias of, for the `provider/model` that serves it; then those of genai-prices, a
    list of public prices that comes with its package. Nothing is fetched.

    Which of its providers ours is, its base URL says. Where that names none of them (a proxy, a
    simulator), ours goes by its name if that is `openai`, `openai-responses` or `anthropic`: such a
    proxy stands before the provider, and who is billed for a model by its public name would rather
    see that than nothing. Every other provider's models have no price unless they are configured.

    Public prices are standard ones: no batch or priority tiers, no discounts, prompt cache writes that
    last 5 minutes, and no fees of tools that a provider runs.
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
        self._public: dict[int, Prices | None] = {}  # by identity of what the snapshot holds
        # To look through its rules takes 0.1 ms.
        self._listed = functools.lru_cache(MAX_FOUND)(self._find)

    async def load(self) -> None:
        """Read genai-prices, about a quarter of a second, in a thread. Await it before serving.

        Without it the first model that has no configured price is answered as well, but the loop
        stands still meanwhile.
        """
        await asyncio.to_thread(self._load)

    def prices(self, provider_name: str, model: str, asked: str, at: float) -> Prices | None:
        """What `model`, as the provider names it, costs at `at` (seconds since the epoch).

        `asked` is the alias or `provider/model` by which it was asked for. None: not known.
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
    """Whose price list holds for a provider."""
    try:
        return snapshot.find_provider(None, None, config.base_url)
    except LookupError:
        known = _KNOWN_BY_NAME.get(name)
        return snapshot.find_provider(None, known, None) if known else None


def _public_prices(price: ModelPrice) -> Prices | None:
    """None where the list does not say it all: an entry without prices is not a free model."""
    from genai_prices.types import TieredPrices  # see `load`

    if price.input_mtok is None or price.output_mtok is None:
        return None
    if price.input_image_mtok is not None:  # a usage does not say which of its tokens were images
        return None
    tiers = {
        tier.start
        for value in vars(price).values()
        if isinstance(value, TieredPrices)
        for tier in value.tiers
    }
    return Prices([_rates(price, above) for above in sorted({0, *tiers})])


def _rates(price: ModelPrice, above_input_tokens: int) -> Rates:
    """What genai-prices calculates for inputs longer than that, up to its next tier.

    Between two tiers a price is a sum of so much for each token, so a few of its own results tell all
    others: the arithmetic of tiers and of what has no price of its own stays where it is maintained.
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
