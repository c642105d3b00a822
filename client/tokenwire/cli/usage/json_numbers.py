"""Proto JSON whose int64 are numbers, as far as every reader of JSON takes them exactly."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as ProtoMessage

MAX_EXACT = 2**53
"""Beyond it a float is not exact, which many readers of JSON take numbers for: those stay text."""


def json_object(message: ProtoMessage) -> dict[str, Any]:
    """A message as an object: also what is empty, 0 or false; what is absent is not there."""
    found: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    _make_numbers(found, message)
    return found


def _make_numbers(found: dict[str, Any], message: ProtoMessage) -> None:
    for field in message.DESCRIPTOR.fields:
        value = found.get(field.json_name)
        if field.type == FieldDescriptor.TYPE_INT64 and isinstance(value, str):
            number = int(value)
            if abs(number) <= MAX_EXACT:
                found[field.json_name] = number
        elif isinstance(value, dict):
            inner = getattr(message, field.name)
            if isinstance(inner, ProtoMessage):  # and no map
                _make_numbers(value, inner)
