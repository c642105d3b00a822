"""Protobuf messages from mappings. Enum values may be short names, such as "high"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message as ProtoMessage

from .spelling import unknown_name

_ProtoT = TypeVar("_ProtoT", bound=ProtoMessage)


def message_of(kind: type[_ProtoT], value: object, path: str) -> _ProtoT:
    """Return a message as it is, or the message that a mapping describes.

    Raises:
        TypeError, ValueError: the value is neither, or a name or a value in the mapping is invalid. The
            error begins with its path.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        name, given = kind.DESCRIPTOR.name, type(value).__name__
        raise TypeError(f"{path}: must be a {name} or a mapping, not {given}")
    message = kind()
    fields = kind.DESCRIPTOR.fields_by_name
    for name, each in value.items():
        if name not in fields:
            raise TypeError(f"{path}: {unknown_name(name, fields)}")
        field_path = f"{path}.{name}"
        converted = _converted(message, name, each, field_path)
        try:
            message.MergeFrom(kind(**{name: converted}))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{field_path}: {error}") from None
    return message


def _enum_number(enum: Any, value: object, path: str) -> object:
    """Return the number of an enum value from its name, its short name or its number."""
    if not isinstance(value, str):
        return value
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    found = enum.values_by_name.get(value) or enum.values_by_name.get(prefix + value.upper())
    if found is None:
        names = [each.name.removeprefix(prefix).lower() for each in enum.values[1:]]
        raise ValueError(f"{path}: must be one of {', '.join(names)}, not {value!r}")
    return found.number


def _converted(message: ProtoMessage, name: str, value: object, path: str) -> object:
    """Return the value of a field as the constructor of its message takes it."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.enum_type is not None:
        return _enum_number(field.enum_type, value, path)
    if isinstance(value, Mapping) and field.message_type is not None:
        kind = type(getattr(message, name))
        if issubclass(kind, ProtoMessage) and field.message_type.file.package == "tokenwire.v1":
            return message_of(kind, value, path)
    return value
