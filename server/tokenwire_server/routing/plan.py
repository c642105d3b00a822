"""Resolves the name of a model to a plan: the ordered routes that can serve a request."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ..config import ModelConfig, ModelTarget
from ..errors import PermissionDenied, UnknownModel, UpstreamAuth
from ..providers.base import Provider, Route
from ..providers.registry import ProviderRegistry
from ..providers.state import latest_maker
from ..request import Message
from .targets import TargetState, order_of

MAX_NEAREST = 3
"""Maximum number of names that an error suggests."""
MAX_COMPARED_CHARS = 256
"""Characters of an unknown name that are compared with known ones: the time grows with the length."""

_NOT_CONFIGURED = ModelConfig()


class Plan(msgspec.Struct, frozen=True):
    """The routes that can serve a request, in the order in which they are tried. There is at least one."""

    candidates: tuple[Route, ...]

    @property
    def first(self) -> Route:
        """The preferred route: the one that is estimated and reported before the stream starts."""
        return self.candidates[0]


class OwnKeys(Protocol):
    """The keys that tenants have at providers."""

    def provider(self, tenant: str, name: str) -> Provider | None:
        """Return a provider that sends the tenant's own key. None: the server's key is used.

        Raises UpstreamAuth if the tenant's key cannot be read; StoreUnavailable.
        """
        ...

    def may_use_server_keys(self, tenant: str) -> bool:
        """Return whether the server's key may be used if the tenant has none."""
        ...


class Router:
    """Resolves the names of models, which are `provider/model` or an alias from the configuration."""

    def __init__(
        self,
        providers: ProviderRegistry,
        models: Mapping[str, ModelConfig],
        *,
        own_keys: OwnKeys | None = None,
        blocked_s: Callable[[Route], float] = lambda _: 0.0,
        random: Callable[[], float] = random.random,
    ) -> None:
        """`blocked_s` returns for how many seconds no request is sent to a route. Unless that is 0, the route
        is tried after all others.
        """
        self._providers = providers
        self._own_keys = own_keys
        self._blocked_s = blocked_s
        self._random = random
        self.replace(models)

    def replace(self, models: Mapping[str, ModelConfig]) -> None:
        """Use another configuration of the models for all plans that are made from now on."""
        self._models = models
        self._targets: dict[str, list[tuple[ModelTarget, ModelConfig]]] = {}
        """The targets of the configured models that were requested. Merging takes 15 us."""
        self._has_fallbacks = any(config.fallbacks for config in models.values())

    def routes(
        self, model: str, messages: Sequence[Message], tenant: str = ""
    ) -> tuple[Route, ...]:
        """Return the routes to a model's targets, in the order in which they are tried.

        A conversation that has state of the provider of a target stays there, because other providers do not
        get that state. If `tenant` has its own key for a provider, that key is sent.

        If no target can be used, raises UnknownModel; or, because of the tenant's own key, PermissionDenied
        or UpstreamAuth. Raises StoreUnavailable.
        """
        routes = self._usable_routes(model, tenant)
        if len(routes) == 1:
            return (routes[0][0],)
        maker = latest_maker(messages)
        states = [
            TargetState(
                weight=target.weight,
                load=route.provider.slots.in_use,
                is_usable=not route.provider.slots.is_full and not self._blocked_s(route),
                is_preferred=route.provider.name == maker,
            )
            for route, target, _ in routes
        ]
        choice = routes[0][2].target_choice
        return tuple(routes[index][0] for index in order_of(states, choice, random=self._random))

    def fallbacks(self, model: str, tenant: str = "") -> tuple[str, ...]:
        """Return the names of the models that the configuration has as fallbacks.

        Raises as `routes`, except if no model has fallbacks: then the model is not looked up.

        A model can inherit fallbacks from its target. It is not a fallback of itself: it would be repeated
        without a pause, beyond the retry budget of its provider.
        """
        if not self._has_fallbacks:
            return ()
        return tuple(name for name in self.describe(model, tenant)[1].fallbacks if name != model)

    def model_ids(self) -> list[str]:
        """Return the models and aliases that the configuration names, sorted."""
        return sorted(self._models)

    def describe(self, model: str, tenant: str = "") -> tuple[Route, ModelConfig]:
        """Return the route to a model's first target, and the model's configuration. Raises as `routes`."""
        route, _, config = self._usable_routes(model, tenant)[0]
        return route, config

    def _usable_routes(
        self, model: str, tenant: str
    ) -> list[tuple[Route, ModelTarget, ModelConfig]]:
        """Return the route to each target whose provider can be used. Raises as `routes`."""
        targets = self._targets.get(model)
        if targets is None:
            targets = self._merged_targets(model)
            if model in self._models:  # callers may name any model
                self._targets[model] = targets
        routes: list[tuple[Route, ModelTarget, ModelConfig]] = []
        for target, merged in targets:
            try:
                routes.append((self._route(model, target.target, merged, tenant), target, merged))
            except (UnknownModel, PermissionDenied, UpstreamAuth):
                if target is targets[-1][0] and not routes:
                    raise
        return routes

    def _merged_targets(self, model: str) -> list[tuple[ModelTarget, ModelConfig]]:
        """Return the targets of a model, each with the configuration that applies there."""
        config = self._models.get(model)
        layers = [config]
        if config is None or not config.targets:
            name = (config.target if config else "") or model
            config = self._models.get(name)
            layers.insert(0, config)
        else:
            name = ""
        targets = config.targets if config and config.targets else (ModelTarget(target=name),)
        return [(target, _merged(self._models.get(target.target), *layers)) for target in targets]

    def _route(self, model: str, target: str, config: ModelConfig, tenant: str) -> Route:
        """Return the route to a target of a model. Raises as `routes`."""
        name, _, provider_model = target.partition("/")
        if not provider_model:
            why = f"{model!r} is neither provider/model nor an alias of this server"
            raise UnknownModel(model, why=why, nearest=self._nearest(model))
        own = self._own_provider(model, name, tenant)
        provider = own or self._providers.get(name)
        if provider is None:
            key_env = self._providers.missing_key_env(name)
            why = (
                f"there is no provider {name!r} on this server"
                if key_env is None
                else f"provider {name!r} has no key on this server; the operator must set {key_env}"
            )
            raise UnknownModel(model, why=why, nearest=self._nearest(model))
        return Route(
            provider,
            provider_model,
            config.max_output_tokens,
            first_content_s=config.first_content_s,
            drip_s=config.drip_s,
            idle_s=config.idle_s,
            reasons="reasoning" in config.capabilities,
            name=model,
            key_owner=tenant if own else "",
        )

    def _own_provider(self, model: str, name: str, tenant: str) -> Provider | None:
        """Return the provider with the tenant's own key. None: the server's key may be used."""
        if self._own_keys is None or not tenant:
            return None
        own = self._own_keys.provider(tenant, name)
        if own is not None or not self._providers.is_configured(name):
            return own
        if not self._own_keys.may_use_server_keys(tenant):
            why = (
                f"tenant {tenant!r} needs its own key for provider {name!r}, and none is stored; the "
                "operator can store one with `tokenwire-server provider-keys set`"
            )
            raise PermissionDenied(model, why=why)
        return None

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


def _merged(*layers: ModelConfig | None) -> ModelConfig:
    """Return the configuration of a model. Later layers replace what earlier ones set."""
    configured = [config for config in layers if config is not None]
    if not configured:
        return _NOT_CONFIGURED
    merged: dict[str, Any] = {}
    for config in configured:
        merged |= config.model_dump(exclude_unset=True, exclude={"target", "targets"})
    return ModelConfig(**merged)
