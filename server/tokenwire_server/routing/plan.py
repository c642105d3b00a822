"""Resolves the name of a model to a plan: the ordered routes that can serve a request."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import msgspec

from ..config import ModelConfig
from ..errors import UnknownModel
from ..providers.base import Route
from ..providers.registry import ProviderRegistry

MAX_NEAREST = 3
"""Maximum number of names that an error suggests."""
MAX_COMPARED_CHARS = 256
"""Characters of an unknown name that are compared with known ones: the time grows with the length."""


class Plan(msgspec.Struct, frozen=True):
    """The routes that can serve a request, in the order in which they are tried. There is at least one."""

    candidates: tuple[Route, ...]

    @property
    def first(self) -> Route:
        """The preferred route: the one that is estimated and reported before the stream starts."""
        return self.candidates[0]


class Router:
    """Resolves the names of models, which are `provider/model` or an alias from the configuration."""

    def __init__(self, providers: ProviderRegistry, models: Mapping[str, ModelConfig]) -> None:
        self._providers = providers
        self._models = models

    def route(self, model: str) -> Route:
        """Return the preferred route to a model. Raises UnknownModel."""
        return self.describe(model)[0]

    def fallbacks(self, model: str) -> tuple[str, ...]:
        """Return the names of the models that the configuration has as fallbacks. Raises UnknownModel."""
        return self.describe(model)[1].fallbacks

    def model_ids(self) -> list[str]:
        """Return the models and aliases that the configuration names, sorted."""
        return sorted(self._models)

    def describe(self, model: str) -> tuple[Route, ModelConfig]:
        """Return a model's route and its configuration. Raises UnknownModel."""
        config = self._models.get(model)
        target = (config.target if config else "") or model
        merged = _merged(self._models.get(target), config)
        name, _, provider_model = target.partition("/")
        if not provider_model:
            why = f"{model!r} is neither provider/model nor an alias of this server"
            raise UnknownModel(model, why=why, nearest=self._nearest(model))
        provider = self._providers.get(name)
        if provider is None:
            key_env = self._providers.missing_key_env(name)
            why = (
                f"there is no provider {name!r} on this server"
                if key_env is None
                else f"provider {name!r} has no key on this server; the operator must set {key_env}"
            )
            raise UnknownModel(model, why=why, nearest=self._nearest(model))
        route = Route(
            provider,
            provider_model,
            merged.max_output_tokens,
            first_content_s=merged.first_content_s,
            drip_s=merged.drip_s,
            idle_s=merged.idle_s,
            reasons="reasoning" in merged.capabilities,
            name=model,
        )
        return route, merged

    def _nearest(self, model: str) -> list[str]:
        """Return the known names that are most like an unknown one."""
        model = model[:MAX_COMPARED_CHARS]
        _, _, rest = model.partition("/")
        providers = self._providers.names()
        known = dict.fromkeys(  # without repeated names
            [*self._models, *(f"{provider}/{rest or '...'}" for provider in providers)]
        )
        close = difflib.get_close_matches(model, known, n=MAX_NEAREST, cutoff=0.6)
        return close or [f"{provider}/..." for provider in sorted(providers)][:MAX_NEAREST]


def _merged(target: ModelConfig | None, alias: ModelConfig | None) -> ModelConfig:
    """Return an alias's configuration, completed with that of its target."""
    layers = [config.model_dump(exclude_unset=True) for config in (target, alias) if config]
    return ModelConfig(**{key: value for layer in layers for key, value in layer.items()})
