"""Lenient decoding of JSON, for events that the strict decoder refuses because a value has another type.

An odd value costs at most its own field. It is read as the field's type if its meaning is clear: the id 3 as
"3", 7.0 tokens as 7, one object as a list of one, a text in a list of parts as a part. Otherwise the field
gets its default. This takes about ten times as long as the strict decoder, so it runs only after that one
has failed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import inspect

from .json import join_surrogates, loads

JsonText = Annotated[str, msgspec.Meta(extra={"objects": "json"})]
"""A text that is JSON. Any other value in its place becomes its JSON."""
Prose = Annotated[str, msgspec.Meta(extra={"objects": "text"})]
"""A text to read. An object in its place becomes the text in it, or else its JSON; a list becomes the texts
of its elements."""
ExactText = Annotated[str, msgspec.Meta(extra={"objects": "none"})]
"""A string that decides how the answer ends. No other type is converted to it."""

MAX_PROBLEMS = 3
"""Maximum number of unreadable fields of an event that are named."""
MAX_STRUCTS = 8 * 1024
"""Maximum number of objects of one event that are read, which takes 30 ms. Unread fields do not count."""
_TEXT_KEYS = ("text", "content", "thinking", "reasoning", "summary")
_MISSING = object()

_T = TypeVar("_T")
_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


class _UnreadableError(Exception):
    """A value cannot be read as its type."""


def read(decoder: msgspec.json.Decoder[_T], data: bytes) -> tuple[_T, str]:
    """Decode JSON into the decoder's type. Also return the fields that could not be read, for the log.

    The description names fields and types of JSON, but no values: "usage: array; choices[0].index: true".
    Strings in the result may contain lone surrogates, as in `json.loads`. Raises `msgspec.DecodeError` for
    invalid data, and its subclass `msgspec.ValidationError` if nothing of the value can be read.
    """
    reader = _Reader()
    try:
        value = reader.read(_type_info(cast("Hashable", decoder.type)), _parse(data), "")
    except _UnreadableError:
        raise msgspec.ValidationError("not an object, or without a required field") from None
    except RecursionError:
        raise msgspec.ValidationError("nested too deeply") from None
    return value, "; ".join(reader.problems)


def _parse(data: bytes) -> Any:
    """Parse JSON, and Python's `NaN` and `Infinity` as null."""
    try:
        return loads(_anything, data)
    except msgspec.DecodeError as error:
        if not any(word in data for word in (b"NaN", b"Infinity")):
            raise
        with suppress(ValueError, RecursionError):
            return json.loads(data.decode(), parse_constant=lambda _: None)
        raise msgspec.DecodeError(str(error)) from error


@lru_cache(maxsize=64)
def _type_info(type_: Hashable) -> inspect.Type:
    return inspect.type_info(type_)


class _Reader:
    """Reads one value, and collects the paths of what is unreadable in it."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._structs_count = 0

    def read(self, type_: inspect.Type, value: Any, path: str) -> Any:
        """Return the value as the type. Raises _UnreadableError."""
        match type_:
            case inspect.Metadata(type=inspect.StrType(), extra={"objects": objects}):
                return _annotated_text(objects, value)
            case inspect.Metadata():
                return self.read(type_.type, value, path)
            case inspect.UnionType():
                return self._read_union(type_, value, path)
            case inspect.StructType():
                return self._read_struct(type_, value, path)
            case inspect.ListType():
                return self._read_list(type_, value, path)
            case inspect.DictType():
                return self._read_dict(type_, value, path)
            case inspect.StrType():
                return _text(value)
            case inspect.IntType():
                return _checked(type_, round(_number(value)))
            case inspect.FloatType():
                return _checked(type_, _float(value))
            case inspect.BoolType() if isinstance(value, bool):
                return value
            case inspect.NoneType() if value is None:
                return None
            case inspect.AnyType():
                return value
            case inspect.RawType():
                return msgspec.Raw(join_surrogates(_json(value)).encode())
        raise _UnreadableError

    def _read_struct(self, type_: inspect.StructType, value: Any, path: str) -> Any:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, dict):
            raise _UnreadableError
        self._structs_count += 1
        if self._structs_count > MAX_STRUCTS:
            raise msgspec.ValidationError("has too many objects")
        fields: dict[str, Any] = {}
        for field in type_.fields:
            raw = value.get(field.encode_name, _MISSING)
            field_path = f"{path}.{field.encode_name}" if path else field.encode_name
            if raw is not _MISSING:
                try:
                    fields[field.name] = self.read(field.type, raw, field_path)
                    continue
                except _UnreadableError:
                    self._report(field_path, raw)
            if field.required:
                raise _UnreadableError
        return type_.cls(**fields)

    def _read_list(self, type_: inspect.ListType, value: Any, path: str) -> list[Any]:
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            raise _UnreadableError
        elements = []
        has_text = isinstance(type_.item_type, inspect.StructType) and any(
            field.name == "text" for field in type_.item_type.fields
        )
        for i, raw in enumerate(value):
            is_text = has_text and isinstance(raw, str)
            element = {"type": "text", "text": raw} if is_text else raw
            try:
                elements.append(self.read(type_.item_type, element, f"{path}[{i}]"))
            except _UnreadableError:
                self._report(f"{path}[{i}]", raw)
        return elements

    def _read_dict(self, type_: inspect.DictType, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _UnreadableError
        read = {}
        for key, raw in value.items():
            try:
                read[key] = self.read(type_.value_type, raw, f"{path}[...]")
            except _UnreadableError:
                self._report(f"{path}[...]", raw)
        return read

    def _read_union(self, type_: inspect.UnionType, value: Any, path: str) -> Any:
        """Read a value as the member of the union that fits best."""
        for member in sorted(type_.types, key=lambda member: not _fits(member, value)):
            known = len(self.problems)
            try:
                return self.read(member, value, path)
            except _UnreadableError:
                del self.problems[known:]
        raise _UnreadableError

    def _report(self, path: str, value: Any) -> None:
        # null means that the field is absent
        if value is not None and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(f"{path}: {_json_type(value)}")


def _fits(type_: inspect.Type, value: Any) -> bool:
    """Return whether a type is written as this type of JSON."""
    while isinstance(type_, inspect.Metadata):
        type_ = type_.type
    match type_:
        case inspect.NoneType():
            return value is None
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType() | inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case inspect.ListType():
            return isinstance(value, list)
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, dict)
        case _:
            return isinstance(type_, inspect.AnyType | inspect.RawType)


def _annotated_text(objects: str, value: Any) -> str:
    match objects, value:
        case _, str():
            return value
        case "json", _ if value is not None:
            return _json(value)
        case "text", dict() | list():
            return _prose(value)
        case "none", _:
            raise _UnreadableError
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnreadableError
    return _json(value)


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _UnreadableError from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnreadableError
    if isinstance(value, float) and not math.isfinite(value):
        raise _UnreadableError
    return value


def _float(value: Any) -> float:
    try:
        return float(_number(value))
    except OverflowError:
        raise _UnreadableError from None


def _checked(type_: inspect.IntType | inspect.FloatType, value: float) -> int | float:
    """Return the number if it is within the type's bounds."""
    if (
        (type_.ge is not None and value < type_.ge)
        or (type_.gt is not None and value <= type_.gt)
        or (type_.le is not None and value > type_.le)
        or (type_.lt is not None and value >= type_.lt)
    ):
        raise _UnreadableError
    return value


def _prose(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_prose, value))
    if isinstance(value, dict):
        for key in _TEXT_KEYS:
            if isinstance(value.get(key), str | list):
                return _prose(value[key])
        return _json(value)
    return ""


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:  # a number that JSON cannot express
        raise _UnreadableError from None


def _json_type(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
        case _:
            return "object"
