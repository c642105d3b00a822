"""Checking JSON that travels as text: tool arguments and JSON schemas."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

MAX_SCHEMA_BYTES = 256 * 1024
MAX_DEPTH = 64
"""Deepest nesting of a schema: checking it recurses."""


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
    if len(text) > MAX_SCHEMA_BYTES:
        return f"is longer than {MAX_SCHEMA_BYTES} characters"
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"is not JSON: {error}"
    if not isinstance(schema, dict):
        return "must be a JSON object"
    if _deeper_than(schema, MAX_DEPTH):
        return f"is nested deeper than {MAX_DEPTH}"
    if of_type is not None and schema.get("type") != of_type:
        return f'must be of "type": "{of_type}"'
    fault = next(_validator().iter_errors(schema), None)
    return None if fault is None else f"is no JSON Schema: {fault.json_path}: {fault.message}"


@cache
def _validator() -> Any:
    # Imported when the first schema comes: 40 ms that most calls never need.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(Draft202012Validator.META_SCHEMA)


def _deeper_than(value: object, depth: int) -> bool:
    level: list[object] = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            for inner in (
                outer.values()
                if isinstance(outer, dict)
                else outer
                if isinstance(outer, list)
                else ()
            )
        ]
        if not level:
            return False
    return True
