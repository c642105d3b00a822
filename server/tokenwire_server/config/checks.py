"""Checks of settings that depend on each other and on the environment."""

from __future__ import annotations

from collections.abc import Mapping

from .models import ModelConfig
from .providers import ProviderConfig
from .sources import ConfigError


def require_a_key(providers: Mapping[str, ProviderConfig], environ: Mapping[str, str]) -> None:
    """Raises ConfigError if no provider can be used with the keys in the environment."""
    if any(not p.api_key_env or environ.get(p.api_key_env, "").strip() for p in providers.values()):
        return
    names = sorted({p.api_key_env for p in providers.values()})
    raise ConfigError(
        f"no provider can be used: set {' or '.join(names)}, configure a provider that needs no key, "
        "or try --demo"
    )


def require_targets(
    models: Mapping[str, ModelConfig], providers: Mapping[str, ProviderConfig]
) -> None:
    """Raises ConfigError if a model of the configuration has a target or fallback that is unknown."""
    for name, model in models.items():
        for target in model.target_names(name):
            provider, _, rest = target.partition("/")
            if provider not in providers or not rest:
                raise ConfigError(
                    f"models.{name}: {target!r} is not provider/model of one of "
                    f"{', '.join(providers)}"
                )
        for index, fallback in enumerate(model.fallbacks):
            if fallback in models:
                continue
            provider, _, rest = fallback.partition("/")
            if provider not in providers or not rest:
                raise ConfigError(
                    f"models.{name}.fallbacks[{index}]: {fallback!r} is neither an alias nor "
                    f"provider/model of one of {', '.join(providers)}"
                )
