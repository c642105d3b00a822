"""Lookup of a model's prices: the operator's, or else those of the bundled genai-prices."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..config import ModelConfig, ModelPrices, ProviderConfig
from .prices import Prices
from .public_prices import PublicPrices, moment, tier_of
from .tariff import Tariff, undated

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, Provider

MAX_FOUND = 1000
"""Models whose prices are cached. Callers may name any model."""

_KNOWN_BY_NAME = {"openai": "openai", "openai-responses": "openai", "anthropic": "anthropic"}


class ConfiguredPrices(NamedTuple):
    """The prices in the configuration. `PriceBook.replace` exchanges them as a whole."""

    prices: dict[str, dict[str, Prices]]
    """By the name of the model and the tier."""
    targets: dict[str, str]
    """The `provider/model` of each name. Empty: it has none, or several."""

    @classmethod
    def of(cls, models: Mapping[str, ModelConfig]) -> ConfiguredPrices:
        """Return the prices of these models. Takes 30 ms for a thousand models with prices."""
        return cls(
            {
                name: _in_tiers(config.prices)
                for name, config in models.items()
                if config.prices is not None
            },
            {name: config.target for name, config in models.items()},
        )

    def names(self, provider_name: str, model: str, asked: str) -> Iterator[str]:
        """Yield the names under which a model may have prices, the most specific one first."""
        if asked:
            yield asked
        if asked in self.targets:
            yield self.targets[asked]
        yield f"{provider_name}/{model}"

    def priced_name(self, provider_name: str, model: str) -> str:
        """Return a reported name, or that without its date if only the latter has configured prices."""
        base = undated(model)
        is_base = f"{provider_name}/{model}" not in self.prices
        return base if is_base and f"{provider_name}/{base}" in self.prices else model


class PriceBook:
    """The prices of models.

    The first of these is used: the prices configured for the requested name, for the `provider/model` of
    which it is an alias, for the `provider/model` that serves it, and the prices of genai-prices, a list
    of public prices that comes with its package. Nothing is fetched.

    The base URL of a provider selects its public prices. If it is not in the list, such as that of a proxy
    or a simulator, the providers named `openai`, `openai-responses` and `anthropic` use the public prices
    of OpenAI and Anthropic, because a proxy usually forwards to them. Models of other providers have no
    price unless one is configured.

    Public prices do not include discounts. A tier of service, a cache write of an hour or a tool of the
    provider has a price only if the list has one; see `public_prices`.
    """

    def __init__(
        self, models: Mapping[str, ModelConfig], providers: Mapping[str, ProviderConfig]
    ) -> None:
        self._providers = providers
        self._configured = ConfiguredPrices.of(models)
        self._snapshot: DataSnapshot | None = None
        self._sellers: dict[str, Provider] = {}
        self._public = PublicPrices()
        # A search takes 0.1 ms.
        self._listed = functools.lru_cache(MAX_FOUND)(self._find)

    async def load(self) -> None:
        """Load genai-prices in a thread. Await it before serving.

        Otherwise the first lookup of a model without a configured price loads it and blocks the event loop.
        """
        await asyncio.to_thread(self._load)

    def replace(self, configured: ConfiguredPrices) -> None:
        """Use other configured prices. A `Tariff` keeps those with which it was made."""
        self._configured = configured

    def prices(
        self, provider_name: str, model: str, asked: str, at: float, service_tier: str = ""
    ) -> Prices | None:
        """Return the prices of `model`, the provider's name, at the time `at` (seconds since the epoch).

        `asked` is the requested alias or `provider/model`. `service_tier` is the provider's word for a tier.
        None: the prices are unknown.
        """
        return self._prices(self._configured, provider_name, model, asked, at, service_tier)

    def _prices(
        self,
        configured: ConfiguredPrices,
        provider_name: str,
        model: str,
        asked: str,
        at: float,
        service_tier: str,
    ) -> Prices | None:
        tier = tier_of(service_tier)
        for name in configured.names(provider_name, model, asked):
            if name in configured.prices:
                return configured.prices[name].get(tier)
        found = self._listed(provider_name, model)
        if found is None:
            return None
        return self._public.prices(self._sellers[provider_name], found, moment(at), tier)

    def tariff(
        self, provider_name: str, model: str, asked: str, at: float, service_tier: str = ""
    ) -> Tariff | None:
        """Return the prices of one request, with the arguments of `prices`.

        `service_tier` is the requested tier. None: the prices of the model are unknown.
        """
        configured = self._configured
        standard = self._prices(configured, provider_name, model, asked, at, "")
        if standard is None:
            return None
        return Tariff(
            standard,
            model=model,
            asked_tier=service_tier,
            in_tier=lambda tier: self._prices(configured, provider_name, model, asked, at, tier),
            lookup=lambda other, tier: self._prices(
                configured,
                provider_name,
                configured.priced_name(provider_name, other),
                "",
                at,
                tier,
            ),
        )

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


def _in_tiers(prices: ModelPrices) -> dict[str, Prices]:
    """Return the prices of an operator by tier."""
    tiers = {"": Prices.configured(prices)}
    for word, factor in prices.tier_factors.items():
        tiers[tier_of(word)] = Prices.configured(prices, factor)
    return tiers
