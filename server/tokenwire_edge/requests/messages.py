"""Protobuf messages from JSON values, in protobuf's JSON mapping.

`json_format.ParseDict` stops at the first fault and describes it in terms of Python. This reader finds all
faults, with the paths that the server uses. It refuses some values that `json_format` accepts and changes
without notice: invalid base64, booleans for numbers, fractions and numbers in strings for enums, "" and []
for objects, a field in both spellings, and numbers in spellings of Python such as "1_000" or "inf".

https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from .scalars import DURATION, TIMESTAMP, Convert, Invalid, converter, finite, from_text, string
from .violations import MAX_VIOLATIONS, Path, cleaned, extended, invalid_request, kind_of

MAX_DEPTH = 100
"""Messages inside one another that protobuf parses. Lists and objects of a Struct are messages too."""
M = TypeVar("M", bound=Message)


def message_of(
    value: object, kind: type[M], path: str = "", *, found: Sequence[tuple[str, str]] = ()
) -> M:
    """Return the message that a JSON value describes.

    Field names may be in lowerCamelCase or snake_case. Null is the same as an absent field. `path` is the
    path of the value, for violations. `found` are violations that the caller has found.

    Raises:
        Problem: 400 INVALID_REQUEST, with up to MAX_VIOLATIONS violations.
    """
    message = kind()
    reader = _Reader(found)
    try:
        reader.message(value, message, (None, path) if path else None, 0)
    except _TooManyViolations:
        raise invalid_request(reader.violations, all_found=False) from None
    if reader.violations:
        raise invalid_request(reader.violations)
    return message


class _TooManyViolations(Exception):
    """Checking stops here."""


class _Reader:
    """Reads one message and the messages in it. Collects the violations."""

    def __init__(self, found: Sequence[tuple[str, str]]) -> None:
        self.violations: list[tuple[Path | str, str]] = [*found]

    def report(self, path: Path, description: str) -> None:
        self.violations.append((path, description))
        if len(self.violations) >= MAX_VIOLATIONS:
            raise _TooManyViolations

    def message(self, value: object, message: Message, path: Path, depth: int) -> None:
        """Read a message of any type into `message`, which is empty. `depth`: messages around it."""
        descriptor = cast("Descriptor", message.DESCRIPTOR)
        if depth > MAX_DEPTH:
            self.report(path, "is nested too deeply")
        elif (well_known := _WELL_KNOWN.get(descriptor.full_name)) is not None:
            try:
                well_known(self, value, message, path, depth)
            except Invalid as invalid:
                self.report(path, str(invalid))
        elif type(value) is not dict:
            self.report(path, f"must be an object, not {kind_of(value)}")
        else:
            self._fields(value, descriptor, message, path, depth)

    def _fields(
        self,
        value: dict[str, Any],
        descriptor: Descriptor,
        message: Message,
        path: Path,
        depth: int,
    ) -> None:
        fields = _fields_of(descriptor)
        seen: set[str] = set()
        for name, item in value.items():
            field = fields.get(name)
            if field is None:
                self.report(extended(path, name), unknown_field(name, descriptor))
                continue
            here = (path, field.name)
            if field.name in seen:
                self.report(here, "is given twice, also in the other spelling of its name")
                continue
            seen.add(field.name)
            if item is None and not field.takes_null:
                continue
            if field.oneof:
                if field.oneof in seen:
                    others = ", ".join(field.oneof_names)
                    self.report(here, f"is given beside another of {others}: only one is allowed")
                    continue
                seen.add(field.oneof)
            try:
                field.read(self, item, message, here, depth)
            except Invalid as invalid:
                self.report(here, str(invalid))


_Read = Callable[[_Reader, Any, Message, Path, int], None]
"""Reads a JSON value into a message: into the field that it was made for, or all of it."""


class _Field(NamedTuple):
    name: str
    read: _Read
    oneof: str
    """Key of the oneof whose fields exclude one another (not a name of a field). Empty if there is none."""
    oneof_names: tuple[str, ...]
    takes_null: bool


_tables: dict[str, Mapping[str, _Field]] = {}


def _fields_of(descriptor: Descriptor) -> Mapping[str, _Field]:
    """Return the fields of a message type, by both of their names."""
    table = _tables.get(descriptor.full_name)
    if table is None:
        fields = [(each.json_name, _field(each)) for each in descriptor.fields]
        table = {field.name: field for _, field in fields} | dict(fields)
        _tables[descriptor.full_name] = table
    return table


def _field(field: FieldDescriptor) -> _Field:
    group = field.containing_oneof
    names = () if group is None else tuple(each.name for each in group.fields)
    excludes = group is not None and len(names) > 1  # `optional` fields have oneofs of their own
    return _Field(
        field.name,
        _read(field),
        f"oneof {group.name}" if group is not None and excludes else "",
        names,
        field.message_type is not None and field.message_type.full_name == "google.protobuf.Value",
    )


def _read(field: FieldDescriptor) -> _Read:
    name = field.name
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _read_map(field)
    if field.message_type is None:
        convert = converter(field)
        if field.is_repeated:
            return _read_scalars(name, convert)

        def read_scalar(_: _Reader, item: Any, message: Message, __: Path, ___: int) -> None:
            setattr(message, name, convert(item))

        return read_scalar
    if field.is_repeated:
        return _read_messages(name)

    def read_message(reader: _Reader, item: Any, message: Message, path: Path, depth: int) -> None:
        inner: Message = getattr(message, name)
        inner.SetInParent()
        reader.message(item, inner, path, depth + 1)

    return read_message


def _read_scalars(name: str, convert: Convert) -> _Read:
    def read(reader: _Reader, items: Any, message: Message, path: Path, _: int) -> None:
        values = getattr(message, name)
        for i, item in enumerate(_list(items)):
            try:
                values.append(convert(item))
            except Invalid as invalid:
                reader.report((path, i), str(invalid))

    return read


def _read_messages(name: str) -> _Read:
    def read(reader: _Reader, items: Any, message: Message, path: Path, depth: int) -> None:
        messages = getattr(message, name)
        for i, item in enumerate(_list(items)):
            reader.message(item, messages.add(), (path, i), depth + 1)

    return read


def _read_map(field: FieldDescriptor) -> _Read:
    name = field.name
    entry = cast("Descriptor", field.message_type).fields_by_name
    convert_key = converter(entry["key"])
    of_messages = entry["value"].message_type is not None
    convert = None if of_messages else converter(entry["value"])

    def read(reader: _Reader, items: Any, message: Message, path: Path, depth: int) -> None:
        if type(items) is not dict:
            raise Invalid(f"must be an object, not {kind_of(items)}")
        values = getattr(message, name)
        for key, item in items.items():
            here = extended(path, key)
            try:
                if convert is None:
                    reader.message(item, values[convert_key(key)], here, depth + 2)
                else:
                    values[convert_key(key)] = convert(item)
            except Invalid as invalid:
                reader.report(here, str(invalid))

    return read


def _list(items: Any) -> list[Any]:
    if type(items) is not list:
        raise Invalid(f"must be a list, not {kind_of(items)}")
    return items


def field_named(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    """Return a field of a message type by one of its names."""
    for field in descriptor.fields:
        if name in (field.name, field.json_name):
            return field
    return None


def unknown_field(name: str, descriptor: Descriptor) -> str:
    """Describe a name that no field of a message type has."""
    names = {each.json_name: each.name for each in descriptor.fields}
    names |= {each.name: each.name for each in descriptor.fields}
    near = difflib.get_close_matches(cleaned(name), names, 1)
    hint = f"; did you mean {names[near[0]]}?" if near else ""
    return f"is not a field of {descriptor.name}{hint}"


def _duration(_: _Reader, value: Any, message: Any, __: Path, ___: int) -> None:
    from_text(value, message, DURATION, 'a duration: a string of seconds, such as "1.5s"')


def _timestamp(_: _Reader, value: Any, message: Any, __: Path, ___: int) -> None:
    from_text(value, message, TIMESTAMP, 'a time as in RFC 3339, such as "2026-01-31T12:00:00Z"')


def _struct(reader: _Reader, value: Any, message: Any, path: Path, depth: int) -> None:
    if type(value) is not dict:
        raise Invalid(f"must be an object, not {kind_of(value)}")
    fields = cast("Struct", message).fields
    for key, item in value.items():
        here = extended(path, key)
        try:
            reader.message(item, fields[string(key)], here, depth + 2)
        except Invalid as invalid:
            reader.report(here, str(invalid))


def _value(reader: _Reader, value: Any, message: Any, path: Path, depth: int) -> None:
    target = cast("Value", message)
    if value is None:
        target.null_value = 0  # type: ignore[assignment]  # NULL_VALUE
    elif type(value) is bool:
        target.bool_value = value
    elif type(value) is str:
        target.string_value = string(value)
    elif type(value) is dict:
        target.struct_value.SetInParent()
        reader.message(value, target.struct_value, path, depth + 1)
    elif type(value) is list:
        target.list_value.SetInParent()
        reader.message(value, target.list_value, path, depth + 1)
    else:
        target.number_value = finite(value)


def _list_value(reader: _Reader, value: Any, message: Any, path: Path, depth: int) -> None:
    for i, item in enumerate(_list(value)):
        reader.message(item, message.values.add(), (path, i), depth + 1)


_WELL_KNOWN: Mapping[str, _Read] = {
    "google.protobuf.Duration": _duration,
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
    "google.protobuf.ListValue": _list_value,
}
