"""The filters of the configuration, compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from .. import install_hint
from ..config import ConfigError, FilterConfig
from ..config.filters import INPUT
from .filters import LATIN_LOOK_ALIKES, CompiledFilter, Rule, RuleError, compile_rules


class ConfiguredFilter(msgspec.Struct, frozen=True):
    """A filter of the configuration. Shared by all streams."""

    name: str
    config: FilterConfig
    compiled: CompiledFilter

    def applies(self, tenant: str, model: str) -> bool:
        """Return whether a tenant's requests for a model, or the answers to them, are filtered."""
        config = self.config
        return (not config.tenants or tenant in config.tenants) and (
            not config.models or model in config.models
        )


class FilterSet:
    """All filters of a configuration, in their order."""

    def __init__(self, filters: Sequence[ConfiguredFilter] = ()) -> None:
        self._of_input = tuple(each for each in filters if INPUT in each.config.applies_to)
        self._of_output = tuple(each for each in filters if set(each.config.applies_to) != {INPUT})
        self._by_name = {each.name: each for each in filters}

    @classmethod
    def of(cls, configs: Mapping[str, FilterConfig], earlier: FilterSet | None = None) -> FilterSet:
        """Compile the filters. Takes some milliseconds for each pattern.

        Those that `earlier` has too are not compiled again: RE2 stops other threads meanwhile.

        Raises ConfigError with the path of what cannot be used, or if google-re2 is not installed.
        """
        known = {} if earlier is None else earlier._by_name
        return cls(
            [
                known[name]
                if name in known and known[name].config == config
                else _configured(name, config)
                for name, config in configs.items()
            ]
        )

    def chosen(self, tenant: str, model: str) -> list[ConfiguredFilter]:
        """Return the filters for the answer to a request. `model` is as the caller named it."""
        return [each for each in self._of_output if each.applies(tenant, model)]

    def of_input(self, tenant: str, model: str) -> list[ConfiguredFilter]:
        """Return the filters for the texts of a request."""
        return [each for each in self._of_input if each.applies(tenant, model)]


NO_FILTERS = FilterSet()


def _configured(name: str, config: FilterConfig) -> ConfiguredFilter:
    """Raises ConfigError."""
    look_alikes = LATIN_LOOK_ALIKES if config.look_alikes else None
    try:
        compiled = compile_rules(list(_rules(config)), look_alikes=look_alikes)
    except RuleError as error:
        column = "" if error.column is None else f"column {error.column}: "
        raise ConfigError(f"filters.{name}.{error.place}: {column}{error.problem}") from error
    except ImportError as error:
        raise ConfigError(
            f"filters: the package google-re2 is missing: {install_hint('filters')}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"filters.{name}: {error}") from error
    return ConfiguredFilter(name, config, compiled)


def _rules(config: FilterConfig) -> Iterator[Rule]:
    """Yield one rule for each kind of rules: a rule of the engine has one kind."""

    def rule(name: str, **kind: object) -> Rule:
        fields = {
            "name": name,
            "action": config.action,
            "replacement": config.replacement,
            "ignore_case": config.ignore_case,
            **kind,
        }
        return Rule(**fields)  # type: ignore[arg-type]

    if config.patterns:
        yield rule("patterns", patterns=config.patterns)
    if config.words:
        yield rule("words", words=config.words)
    for ready_made in dict.fromkeys(config.ready_made):
        yield rule(ready_made, ready_made=ready_made)
    if config.max_repeats is not None:
        yield rule("max_repeats", max_repeats=config.max_repeats)
