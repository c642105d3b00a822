"""Parsing of the bytes of a call, with a bound on the work.

protobuf's parser blocks the interpreter until it is done: 8 MiB of empty messages take 0.4 s and 128 MiB.
So the fields of a large message are counted on the wire before it is parsed, and a message with too many
fields is refused. A message that consists of text and images has few fields, whatever its size.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from itertools import islice
from typing import TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from ..errors import InvalidRequest
from ..request import Violation

SMALL_MESSAGE_BYTES = 64 * 1024
"""Largest request of the methods that do not take a ChatRequest."""
STEP_FIELDS = 4_000
"""Fields that are counted in one step, in about 1 ms."""

_VARINT, _I64, _LEN, _SGROUP, _EGROUP, _I32 = range(6)
_MAX_VARINT32_SHIFT = 28
_MAX_VARINT_BYTES = 10

M = TypeVar("M", bound=Message)
Children = dict[int, "Children"]
"""The fields of a message type that contain messages: the tag of each, and the Children of its type."""

_children: dict[str, Children] = {}


def parse_message(kind: type[M], data: bytes, *, max_bytes: int = SMALL_MESSAGE_BYTES) -> M:
    """Parse the bytes of a message. Raises InvalidRequest, with "" as the path of the whole."""
    check_size(cast("Descriptor", kind.DESCRIPTOR), data, max_bytes)
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise malformed(kind.DESCRIPTOR.full_name) from None
    return message


def check_size(
    descriptor: Descriptor, data: bytes, max_bytes: int, *, limit_name: str = ""
) -> None:
    """Raise InvalidRequest if a request is larger than `max_bytes`.

    The violation names the field that takes more than half of the request, such as an image, if the
    first STEP_FIELDS fields of the request include one. `limit_name` is the setting of the maximum.
    """
    if len(data) > max_bytes:
        name = f" ({limit_name})" if limit_name else ""
        what = f"the request has {len(data)} bytes; this server takes {max_bytes}{name}"
        violation = Violation(_largest_field(descriptor, data), what)
        raise InvalidRequest([violation], limit_name=limit_name)


def malformed(full_name: str) -> InvalidRequest:
    """Return the error for bytes that are not a message of that name."""
    return InvalidRequest([Violation("", f"not a {full_name}, or text that is not UTF-8")])


def too_many_fields(field: str, max_fields: int) -> InvalidRequest:
    """Return the error for a request with too many fields. `field` is the one that exceeds the bound."""
    what = "has, with the fields before it," if field else "has"
    name = "max_request_fields"
    what = f"{what} more than {max_fields} fields, entries and JSON values ({name})"
    return InvalidRequest([Violation(field, what)], limit_name=name)


def count_fields(
    descriptor: Descriptor, data: bytes, max_fields: int
) -> Generator[None, None, int]:
    """Count the fields of a message and of all messages in it, as they are on the wire.

    Each entry of a list or map is a field. Yields after each STEP_FIELDS, so that others can run.
    Raises InvalidRequest at the first field past `max_fields`, and for bytes that are not a message.
    """
    children, end, at = _children_of(descriptor), len(data), 0
    outer: list[tuple[Children, int, int]] = []  # resumed at the end of a message or group
    top = 0  # tag of the current field of `descriptor`
    left, step_end = max_fields, max(max_fields - STEP_FIELDS, -1)
    try:
        while True:
            while at >= end:
                if at > end:
                    raise malformed(descriptor.full_name)
                if not outer:
                    return max_fields - left
                children, end, group = outer.pop()
                if group:
                    raise malformed(descriptor.full_name)
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = _varint32(data, tag, at)
            if not outer:
                top = tag
            left -= 1
            if left <= step_end:
                if left < 0:
                    field = descriptor.fields_by_number.get(top >> 3)
                    raise too_many_fields(field.name if field else "", max_fields)
                step_end = max(left - STEP_FIELDS, -1)
                yield
            kind = tag & 7
            if kind == _LEN:
                size = data[at]
                at += 1
                if size >= 0x80:
                    size, at = _varint32(data, size, at)
                child = children.get(tag)
                if child is None:
                    at += size
                    continue
                if at + size > end:
                    raise malformed(descriptor.full_name)
                outer.append((children, end, 0))
                children, end = child, at + size
            elif kind == _VARINT:
                while data[at] >= 0x80:
                    at += 1
                at += 1
            elif kind == _I64:
                at += 8
            elif kind == _I32:
                at += 4
            elif kind == _SGROUP:  # an unknown field: messages in it are not entered
                outer.append((children, end, tag))
                children = {}
            elif kind == _EGROUP and outer and outer[-1][2] == tag - 1:
                children, end, _ = outer.pop()
            else:
                raise malformed(descriptor.full_name)
    except IndexError:
        raise malformed(descriptor.full_name) from None


def _largest_field(descriptor: Descriptor, data: bytes) -> str:
    """Return the path of the innermost field that takes more than half of the data, "" without one."""
    path: list[str] = []
    message: Descriptor | None = descriptor
    at, end = 0, len(data)
    while message is not None and message.file.package == descriptor.file.package:
        counts = Counter[int]()  # of the fields before, by number
        for number, start, size in islice(_len_fields(data, at, end), STEP_FIELDS):
            if size * 2 > len(data):
                at, end = start, start + size
                break
            counts[number] += 1
        else:
            break
        field = message.fields_by_number.get(number)
        if field is None:
            break
        is_list = isinstance(field.default_value, list)
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            is_list, message = False, None
        path.append(f"{field.name}[{counts[number]}]" if is_list else field.name)
    return ".".join(path)


def _len_fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and size of each length-delimited field, up to the first malformed one."""
    with suppress(IndexError):
        while at < end:
            tag, at = _varint(data, at)
            kind = tag & 7
            if kind == _LEN:
                size, at = _varint(data, at)
                if at + size > end:
                    return
                yield tag >> 3, at, size
                at += size
            elif kind == _VARINT:
                last = min(at + _MAX_VARINT_BYTES, end) - 1
                while at < last and data[at] >= 0x80:
                    at += 1
                at += 1
            elif kind in (_I64, _I32):
                at += 8 if kind == _I64 else 4
            else:
                return


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at a position, and the position after it. Raises IndexError if it has no end."""
    value = data[at]
    return (value, at + 1) if value < 0x80 else _varint32(data, value, at + 1)


def _varint32(data: bytes, value: int, at: int) -> tuple[int, int]:
    """Return a varint whose first byte was read, and the position after it. Raises IndexError if it has no
    end.
    """
    value &= 0x7F
    shift = 7
    while (byte := data[at]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if shift > _MAX_VARINT32_SHIFT:
            raise IndexError
    return value | byte << shift, at + 1


def _children_of(descriptor: Descriptor) -> Children:
    found = _children.get(descriptor.full_name)
    if found is None:
        found = _children[descriptor.full_name] = {}  # set first: types may contain themselves
        for field in descriptor.fields:
            if field.message_type is not None:
                found[field.number << 3 | _LEN] = _children_of(field.message_type)
    return found
