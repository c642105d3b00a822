"""The sources of settings: a TOML file, `TOKENWIRE_*` variables, flags. Later ones override earlier ones.

Each value keeps the name of its source, so that an error can name the place that the operator has to
change. A variable's name is a path, with `__` between its steps: `TOKENWIRE_LIMITS__MAX_STREAMS`. The
names of settings are not case-sensitive. A name that the operator chose (of a tenant, a provider or a
model) is lower-cased if it has no lower-case letter, and otherwise kept unchanged. The value of a variable
that names a table or a list is JSON, and names in this JSON are never changed:
`TOKENWIRE_MODELS='{"openai/GPT-X": {...}}'`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

ENV_PREFIX = "TOKENWIRE_"
STEP = "__"
MAX_FILE_BYTES = 16 * 2**20

FOREIGN_VARIABLES = frozenset(
    {
        "TOKENWIRE_ENCRYPTION_KEYS",
        "TOKENWIRE_HISTORY",
        "TOKENWIRE_KEY",
        "TOKENWIRE_MODEL",
        "TOKENWIRE_PLAINTEXT",
        "TOKENWIRE_TARGET",
        "TOKENWIRE_TLS_CA",
        "TOKENWIRE_TLS_CLIENT_CERT",
        "TOKENWIRE_TLS_CLIENT_KEY",
        "TOKENWIRE_TRANSCRIPTS",
    }
)
"""Variables that are no settings: those of the client and the tests, and the keys that encrypt provider keys,
which must not be in a file."""

EDGE_PREFIX = "TOKENWIRE_EDGE_"
"""Prefix of the settings of `tokenwire-edge`, which may run in the same environment."""

NO_SUCH_SETTING = "no such setting"

Step = str | int


class ConfigError(Exception):
    """The settings cannot be used. The text is one line with the settings and their faults."""


class _Source(NamedTuple):
    """One value from one source."""

    name: str
    """The flag, the variable or the file."""
    path: tuple[str, ...]
    """The setting that it sets. Empty: the value is a table of all settings."""
    value: object


class Sources:
    """The merged values of all sources for the settings of `model`.

    Raises ConfigError when the file cannot be read, when a variable is not a setting, or when its value
    is not the required JSON.
    """

    def __init__(
        self,
        model: type[BaseModel],
        path: Path | None,
        flags: Mapping[str, Any],
        environ: Mapping[str, str],
    ) -> None:
        self._sources: list[_Source] = []
        self.values: dict[str, Any] = {}
        """The merged values, to be validated by the model."""
        found = [] if path is None else [_Source(str(path), (), _toml(path))]
        for source in (*found, *_variables(model, environ), *_flags(flags)):
            self._put(source)

    def describe(self, error: ValidationError) -> str:
        """Return the source, the path and the text of every fault of the merged values."""
        faults = error.errors(include_url=False, include_input=False)
        lists_with_faults = {fault["loc"][:-1] for fault in faults}
        return "; ".join(
            f"{self._place(fault['loc'])}: {_plain(fault['msg'])}"
            for fault in faults
            # Pydantic also reports that a list is too short when it has dropped invalid members.
            if not (fault["type"] == "too_short" and fault["loc"] in lists_with_faults)
        )

    def _put(self, source: _Source) -> None:
        table = self.values
        for depth, step in enumerate(source.path[:-1], start=1):
            inner = table.setdefault(step, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{self._place(source.path[:depth])}: must be a table")
            table = inner
        self._sources.append(source)
        if source.path:
            table[source.path[-1]] = _merged(table.get(source.path[-1]), source.value)
        else:
            self.values = _merged(table, source.value)

    def _place(self, path: Sequence[Step]) -> str:
        """Return a setting's source and its path; only the source if its name contains the path.

        A missing setting has no source: the source of the enclosing table is named instead.
        """
        for end in range(len(path), 0, -1):
            for source in reversed(self._sources):
                if _sets(source, path[:end]):
                    inside = tuple(path[: len(source.path)]) == source.path
                    rest = path[len(source.path) :] if inside else path
                    return f"{source.name}: {dotted(rest)}" if rest else source.name
        return dotted(path)


def fault_at(path: Sequence[Step], what: str) -> ValidationError:
    """Return the error that a validator raises for a setting inside the one that it validates."""
    fault = InitErrorDetails(
        type=PydanticCustomError("setting", "{what}", {"what": what}), loc=tuple(path), input=None
    )
    return ValidationError.from_exception_data("settings", [fault])


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_FILE_BYTES} bytes")
        return tomllib.loads(content.decode("utf-8-sig"))  # Windows editors may write a BOM
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error
    except ValueError as error:  # errors of tomllib, and of int() for too many digits
        raise ConfigError(f"{path}: {error}") from error


def _variables(model: type[BaseModel], environ: Mapping[str, str]) -> list[_Source]:
    """Return the variables, each table before the settings in it. Raises ConfigError with every fault."""
    found: dict[tuple[str, ...], _Source] = {}
    faults: list[str] = []
    for name, text in environ.items():
        upper = name.upper()
        if not upper.startswith(ENV_PREFIX) or upper in FOREIGN_VARIABLES:
            continue
        if upper.startswith(EDGE_PREFIX):
            continue
        try:
            path, is_json = _setting(model, name[len(ENV_PREFIX) :].split(STEP))
            if path in found:
                raise ValueError(f"sets the same as {found[path].name}")
            found[path] = _Source(name, path, _json(text) if is_json else text)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise ConfigError("; ".join(faults))
    return sorted(found.values(), key=lambda source: len(source.path))


def _setting(model: type[BaseModel], steps: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Return the path that a variable names, and whether its value is JSON. Raises ValueError."""
    path: list[str] = []
    kind: Any = model
    for step in steps:
        if _is_section(kind):
            name = step.lower()
            field = kind.model_fields.get(name)
            if field is None:
                raise ValueError(NO_SUCH_SETTING)
            kind = _without_none(field.annotation)
        elif get_origin(kind) is dict and step:
            name = step if any(map(str.islower, step)) else step.lower()
            kind = get_args(kind)[1]
        else:
            raise ValueError(NO_SUCH_SETTING)
        path.append(name)
    return tuple(path), _is_section(kind) or get_origin(kind) in (dict, tuple)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:  # not `str(error)`, which also gives a line
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _flags(flags: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[_Source]:
    for name, value in flags.items():
        if isinstance(value, Mapping):
            yield from _flags(value, (*path, name))
        else:
            yield _Source("--" + "-".join((*path, name)).replace("_", "-"), (*path, name), value)


def _sets(source: _Source, path: Sequence[Step]) -> bool:
    """Return whether a source sets a setting, or something inside it."""
    shared = min(len(path), len(source.path))
    if tuple(path[:shared]) != source.path[:shared]:
        return False
    value: Any = source.value
    for step in path[shared:]:
        if isinstance(value, list):  # a list comes from one source as a whole
            return True
        if not isinstance(value, Mapping) or step not in value:
            return False
        value = value[step]
    return True


def _merged(lower: object, upper: object) -> Any:
    """Return a copy in which tables are merged. Any other value of `upper` replaces that of `lower`."""
    if not isinstance(upper, dict):
        return upper
    below = lower if isinstance(lower, dict) else {}
    return {**below, **{name: _merged(below.get(name), value) for name, value in upper.items()}}


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _without_none(annotation: Any) -> Any:
    """Return X for `X | None`, and any other annotation unchanged."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    is_optional = type(None) in get_args(annotation) and len(kinds) == 1
    return kinds[0] if is_optional else annotation


def dotted(path: Sequence[Step]) -> str:
    """Return the path with dots between its steps, on one line whatever the names contain."""
    return ".".join(str(step) if str(step).isprintable() else repr(step) for step in path)


def _plain(message: str) -> str:
    """Return Pydantic's message without its jargon."""
    if message == "Extra inputs are not permitted":
        return NO_SUCH_SETTING
    if message == "Input should be a valid tuple":
        return "must be a list"
    if message.startswith("Input should be a valid dictionary"):
        return "must be a table"
    if message.startswith("Tuple should have"):
        return message.replace("Tuple should", "must").replace(" after validation", "")
    return message.removeprefix("Value error, ")
