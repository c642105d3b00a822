"""Checking JSON that travels as text: tool arguments and JSON schemas."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import jsonschema_rs
import msgspec

MAX_SCHEMA_CHARS = 256 * 1024
MAX_NODES = 20_000
"""Objects, lists and values of a schema: counting and checking them takes 10 ms, on everybody's loop."""
MAX_DEPTH = 64

_META_SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def json_object_fault(text: str) -> str | None:
    """What is wrong with a text that must be a JSON object; None: nothing."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"is not JSON: {error}"
    return None if isinstance(value, dict) else "must be a JSON object"


def json_schema_fault(text: str, *, of_type: str | None = None) -> str | None:
    """What is wrong with a text that must be a JSON Schema (2020-12); None: nothing."""
    if not text:
        return "is required"
    if len(text) > MAX_SCHEMA_CHARS:
        return f"is longer than {MAX_SCHEMA_CHARS} characters"
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"is not JSON: {error}"
    if not isinstance(schema, dict):
        return "must be a JSON object"
    if fault := _size_fault(schema):
        return fault
    if of_type is not None and schema.get("type") != of_type:
        return f'must be of "type": "{of_type}"'
    try:
        _validator().validate(schema)
    except jsonschema_rs.ValidationError as error:
        path = "".join(f"[{step!r}]" for step in error.instance_path)
        return f"is no JSON Schema: ${path}: {error.message}"
    return None


@cache
def _validator() -> jsonschema_rs.Draft202012Validator:
    # Of the meta-schema, and not `jsonschema_rs.meta`: that one fetches what a `$schema` names.
    return jsonschema_rs.Draft202012Validator({"$ref": _META_SCHEMA})


def _size_fault(value: object) -> str | None:
    level: list[object] = [value]
    nodes = 0
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if nodes > MAX_NODES:
            return f"has more than {MAX_NODES} nodes"
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return None
    return f"is nested deeper than {MAX_DEPTH}"


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
