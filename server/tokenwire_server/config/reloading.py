"""Which settings a running server takes from a configuration that has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from .settings import Settings
from .sources import ConfigError, dotted

RELOADABLE = (
    "log_level",
    "drain_grace_s",
    "drain_accept_s",
    "retries",
    "tenants",
    "models",
    "filters",
    "moderation",
)
"""The settings that are used at once, with everything in them. All others are used after a restart."""


def reloaded(started: Settings, new: Settings) -> Settings:
    """Return the settings of a server that was started with `started` and reloads `new`.

    Raises ConfigError if a new setting is not valid with one that stays the same until a restart.
    """
    values = {
        name: getattr(settings, name)
        for settings in (started, new)
        for name in settings.model_fields_set
        if (name in RELOADABLE) == (settings is new)
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        texts = "; ".join(f"{dotted(fault['loc'])}: {fault['msg']}" for fault in faults)
        raise ConfigError(f"{texts} (some of these settings change only at a restart)") from error


def changed_names(before: Settings, after: Settings) -> list[str]:
    """Return the path of each setting whose value differs, such as `tenants.acme.requests_per_minute`."""
    return [dotted(path) for path in _changed(before.model_dump(), after.model_dump(), ())]


def _changed(
    before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changed(old, new, (*path, name))
        elif old != new:
            yield (*path, name)
