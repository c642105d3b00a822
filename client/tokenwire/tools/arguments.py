"""The arguments of a tool: their JSON Schema from a function's signature, and their validation."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, cast, get_origin, get_type_hints

EXTRA_MISSING = (
    "tools from the signature of a function need msgspec: "
    'pip install "tokenwire[structured]", or give `parameters` as a JSON Schema'
)
_REFERENCE = "#/$defs/"
_UNNAMED = {
    inspect.Parameter.VAR_POSITIONAL: "*{}: give each parameter a name",
    inspect.Parameter.VAR_KEYWORD: "**{}: give each parameter a name",
    inspect.Parameter.POSITIONAL_ONLY: "the positional-only parameter {!r}: arguments are passed by name",
}

Decode = Callable[[str], dict[str, Any]]
"""A function that returns the arguments by name from JSON text. Raises InvalidArguments."""


class InvalidArguments(ValueError):
    """The arguments of a tool call are not valid for the tool's parameters. The message names the place."""


def arguments_of(
    function: Callable[..., object], name: str, descriptions: Mapping[str, str]
) -> tuple[dict[str, Any], Decode]:
    """Return the JSON Schema of a function's parameters, and the function that decodes and checks arguments.

    Raises:
        TypeError: a parameter has no type hint, or one that has no JSON Schema.
        ImportError: msgspec is not installed.
    """
    try:
        import msgspec
    except ImportError as error:
        raise ImportError(EXTRA_MISSING) from error
    inner, bound = unwrapped(function)
    hints = _hints(inner, name)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in bound:
            continue
        hint = _hint_of(parameter, hints, name)
        try:
            msgspec.json.schema_components([hint])
        except Exception as error:
            raise TypeError(
                f"tool {name}: the type of parameter {parameter.name!r} has no JSON Schema: "
                f"{str(error).splitlines()[-1]}"
            ) from error
        if parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, _default(parameter.default)))
    try:
        kind = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
        decoder = msgspec.json.Decoder(kind)
        (reference,), definitions = msgspec.json.schema_components([kind])
    except Exception as error:
        raise TypeError(f"tool {name}: the parameters are not supported: {error}") from error
    schema: dict[str, Any] = definitions.pop(reference["$ref"].removeprefix(_REFERENCE))
    schema.pop("title", None)
    _describe(schema["properties"], hints, descriptions)
    if definitions:
        schema["$defs"] = definitions
    _drop_defaults_without_json(schema)
    names = [field[0] for field in fields]

    def decode(arguments_json: str) -> dict[str, Any]:
        try:
            value = decoder.decode(arguments_json or "{}")
        except Exception as error:  # also of a class of the caller, when its object is made
            raise InvalidArguments(str(error) or type(error).__name__) from error
        return {each: getattr(value, each) for each in names}

    return schema, decode


def decode_unchecked(arguments_json: str) -> dict[str, Any]:
    """Return the arguments of a tool that has its own schema: any JSON object.

    Raises:
        InvalidArguments: the text is not a JSON object.
    """
    try:
        value = json.loads(arguments_json or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidArguments(str(error)) from error
    if not isinstance(value, dict):
        raise InvalidArguments("the arguments are not a JSON object")
    return value


def unwrapped(function: Callable[..., object]) -> tuple[Any, set[str]]:
    """Return the function in `functools.partial` objects, and the parameters that they set by name.

    For another callable object, return its method `__call__`. A model neither sees nor sets these parameters.
    """
    inner: Any = function
    bound: set[str] = set()
    while isinstance(inner, partial):
        bound |= inner.keywords.keys()
        inner = inner.func
    return inner if inspect.isroutine(inner) else type(inner).__call__, bound


def _hints(function: Any, name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, TypeError) as error:
        raise TypeError(f"tool {name}: the type hints cannot be read: {error}") from error


def _hint_of(parameter: inspect.Parameter, hints: Mapping[str, Any], name: str) -> Any:
    if parameter.kind in _UNNAMED:
        what = _UNNAMED[parameter.kind].format(parameter.name)
        raise TypeError(f"tool {name} cannot have {what}")
    if parameter.name not in hints:
        raise TypeError(f"tool {name}: parameter {parameter.name!r} has no type hint")
    return hints[parameter.name]


def _default(value: object) -> Any:
    """Return the default of a field. Only a plain value appears in the schema."""
    import msgspec

    if value is None or isinstance(value, str | int | float):
        return value
    return msgspec.field(default_factory=lambda: value)


def _drop_defaults_without_json(schema: Any) -> None:
    """Remove the defaults NaN and Infinity, which JSON does not have."""
    for each in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(each, dict | list):
            _drop_defaults_without_json(each)
    default = schema.get("default") if isinstance(schema, dict) else None
    if isinstance(default, float) and not math.isfinite(default):
        del schema["default"]


def _describe(
    properties: dict[str, Any], hints: Mapping[str, Any], descriptions: Mapping[str, str]
) -> None:
    """Add descriptions from `Annotated[T, Meta(description=...)]`, `Annotated[T, "..."]` or the docstring."""
    for name, schema in properties.items():
        texts = [each for each in _metadata(hints[name]) if isinstance(each, str)]
        text = texts[-1] if texts else descriptions.get(name)
        if text:
            schema.setdefault("description", text)


def _metadata(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Annotated:
        return cast("tuple[Any, ...]", hint.__metadata__)
    return ()
