"""Checking JSON that travels as text: tool arguments and JSON schemas."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import jsonschema_rs
import msgspec

MAX_SCHEMA_CHARS = 256 * 1024
MAX_NODES = 20_000
"""Objects, lists and values of a schema: counting and checking them takes 10 ms of the event loop."""
MAX_EXPLAINED_NODES = 500
"""For a larger schema the fault is reported without a reason: finding it takes up to 20 us for each node."""
MAX_DEPTH = 64

_WHITESPACE = " \t\n\r"
_META_SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def json_object_fault(text: str) -> str | None:
    """Return the fault of a text that must be a JSON object, or None."""
    try:
        # Raw, because the text is sent unchanged: building its values would take 30 times longer.
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"is not JSON: {error}"
    return None if text.lstrip(_WHITESPACE).startswith("{") else "must be a JSON object"


def check_json_schema(text: str, *, of_type: str | None = None) -> tuple[str | None, int]:
    """Return the fault of a text that must be a JSON Schema (2020-12), or None, and its number of nodes."""
    if not text:
        return "is required", 0
    if len(text) > MAX_SCHEMA_CHARS:
        return f"is longer than {MAX_SCHEMA_CHARS} characters", 0
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"is not JSON: {error}", 0
    if not isinstance(schema, dict):
        return "must be a JSON object", 0
    nodes = _count_nodes(schema)
    if nodes > MAX_NODES:
        return f"has more than {MAX_NODES} nodes", nodes
    if nodes == 0:
        return f"is nested deeper than {MAX_DEPTH}", 0
    if of_type is not None and schema.get("type") != of_type:
        return f'must be of "type": "{of_type}"', nodes
    return _meta_fault(schema, nodes), nodes


def _meta_fault(schema: dict[str, object], nodes: int) -> str | None:
    if _validator().is_valid(schema):
        return None
    if nodes > MAX_EXPLAINED_NODES:
        return "is not a JSON Schema (2020-12)"
    try:
        _validator().validate(schema)
    except jsonschema_rs.ValidationError as error:
        path = "".join(f"[{step!r}]" for step in error.instance_path)
        return f"is not a JSON Schema: ${path}: {error.message}"
    return None


@cache
def _validator() -> jsonschema_rs.Draft202012Validator:
    # Not `jsonschema_rs.meta`, which fetches the URL in `$schema`.
    return jsonschema_rs.Draft202012Validator({"$ref": _META_SCHEMA})


def _count_nodes(value: object) -> int:
    """Count nodes, and stop past MAX_NODES. Return 0 if the value is nested deeper than MAX_DEPTH."""
    level: list[object] = [value]
    nodes = 0
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if nodes > MAX_NODES:
            return nodes
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return nodes
    return 0


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
