"""The parts of a request outside of its body: ids in the path, and the query."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from .messages import field_named, message_of, unknown_field
from .violations import MAX_VIOLATIONS, cleaned, invalid_request

_STREAM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BOOLEANS = {"true": True, "false": False}

M = TypeVar("M", bound=Message)


def check_stream_id(stream_id: str) -> str:
    """Check the characters and the length of a stream's id, and return it. Only the server knows the ids.

    Raises:
        Problem: 400 INVALID_REQUEST, with the same violation as the server's.
    """
    if not _STREAM_ID.fullmatch(stream_id):
        raise invalid_request([("stream_id", "is not the id of a stream")])
    return stream_id


def refuse_query(parameters: Iterable[tuple[str, str]]) -> None:
    """Refuse all parameters, for routes that have none. Raises Problem: 400 INVALID_REQUEST."""
    found = [(cleaned(name), "is not a parameter of this route") for name, _ in parameters]
    if found:
        raise invalid_request(found)


def message_of_query(parameters: Iterable[tuple[str, str]], kind: type[M]) -> M:
    """Return the message whose fields are the parameters of a query.

    A field inside another has a dot in its name: `filter.startTime`. The parameters of a list have the same
    name. The key of a map is part of the name: `filter.labels.team`. Names are in lowerCamelCase or
    snake_case.

    Raises:
        Problem: 400 INVALID_REQUEST, with all violations.
    """
    fields: dict[str, Any] = {}
    found: list[tuple[str, str]] = []
    for name, text in parameters:
        fault = _add(fields, cast("Descriptor", kind.DESCRIPTOR), name, text)
        if fault:
            found.append((cleaned(name), fault))
        if len(found) >= MAX_VIOLATIONS:
            raise invalid_request(found, all_found=False)
    return message_of(fields, kind, found=found)


def _add(fields: dict[str, Any], descriptor: Descriptor, name: str, text: str) -> str:
    """Add a parameter to the JSON of a message. Return what is wrong with it."""
    first, _, rest = name.partition(".")
    field = field_named(descriptor, first)
    if field is None:
        return unknown_field(first, descriptor)
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        entries: dict[str, Any] = fields.setdefault(field.name, {})
        if not rest:
            return f"needs a key: {first}.KEY"
        if rest in entries:
            return "is given twice"
        entries[rest] = text
        return ""
    if inner is not None and not inner.full_name.startswith("google.protobuf."):
        if not rest:
            return f"needs the name of a field of {inner.name}: {first}.NAME"
        return _add(fields.setdefault(field.name, {}), inner, rest, text)
    if rest:
        return f"{first} has no fields"
    value = _BOOLEANS.get(text, text) if field.type == FieldDescriptor.TYPE_BOOL else text
    if field.is_repeated:
        fields.setdefault(field.name, []).append(value)
        return ""
    if field.name in fields:
        return "is given twice"
    fields[field.name] = value
    return ""
