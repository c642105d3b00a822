"""Checks of settings that depend on each other and on the environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
        require_models(f"models.{name}.fallbacks", model.fallbacks, models, providers)


def require_models(
    path: str,
    names: Iterable[str],
    models: Mapping[str, ModelConfig],
    providers: Mapping[str, ProviderConfig],
) -> None:
    """Raises ConfigError if callers cannot call one of these models. `path` is that of the list."""
    for index, name in enumerate(names):
        if name in models:
            continue
        provider, _, rest = name.partition("/")
        if provider not in providers or not rest:
            raise ConfigError(
                f"{path}[{index}]: {name!r} is neither an alias nor "
                f"provider/model of one of {', '.join(providers)}"
            )
