"""Proto JSON in which int64 values are numbers, where every JSON parser reads them exactly."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as ProtoMessage

MAX_EXACT = 2**53
"""Larger values stay strings: many JSON parsers read numbers as floats, which are not exact above this."""


def json_object(message: ProtoMessage) -> dict[str, Any]:
    """Return a message as an object, including fields that are empty, 0 or false."""
    found: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    _make_numbers(found, message)
    return found


def _make_numbers(found: dict[str, Any], message: ProtoMessage) -> None:
    for field in message.DESCRIPTOR.fields:
        value = found.get(field.json_name)
        if field.type == FieldDescriptor.TYPE_INT64 and isinstance(value, str):
            found[field.json_name] = _number(value)
        elif isinstance(value, dict):
            inner, entry = getattr(message, field.name), field.message_type
            if isinstance(inner, ProtoMessage):
                _make_numbers(value, inner)
            elif entry and entry.fields_by_name["value"].type == FieldDescriptor.TYPE_INT64:
                value.update({key: _number(text) for key, text in value.items()})


def _number(text: str) -> int | str:
    number = int(text)
    return number if abs(number) <= MAX_EXACT else text
