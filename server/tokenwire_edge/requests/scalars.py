"""Values of scalar fields, durations and times from JSON."""

from __future__ import annotations

import binascii
import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from .violations import cleaned, kind_of, shown

Convert = Callable[[Any], Any]
"""Returns a JSON value as the value of a field. Raises Invalid."""

_MAX_NAMES = 8
"""Names of an enum that a description lists."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
DURATION = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?s", re.ASCII)
TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*", re.ASCII)
_DOUBLES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Invalid(Exception):
    """A value that its field cannot have. The text is the violation's description."""


def string_fault(value: object) -> str:
    """Return why a JSON value cannot be the value of a string field, or "" if it can."""
    try:
        string(value)
    except Invalid as invalid:
        return str(invalid)
    return ""


def converter(field: FieldDescriptor) -> Convert:
    """Return the converter for a field's values. Raises TypeError for types that the API does not use."""
    of_type = _CONVERTERS.get(field.type)
    if of_type is not None:
        return of_type
    if field.enum_type is not None:
        return _enum(field.enum_type)
    raise TypeError(f"{field.full_name}: JSON for this type is not implemented")


def string(value: Any) -> str:
    """Return a string that UTF-8 can encode. Raises Invalid."""
    if type(value) is not str:
        raise Invalid(f"must be a string, not {kind_of(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Invalid("contains half of a UTF-16 surrogate pair") from None
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise Invalid(f"must be a string with base64, not {kind_of(value)}")
    text = value.rstrip("=").replace("-", "+").replace("_", "/")
    padding = len(value) - len(text)
    fault = ""
    if (end := cast("re.Match[str]", _BASE64.match(text)).end()) < len(text):
        fault = f"the character at {end} is {shown(text[end])}"
    elif len(text) % 4 == 1 or padding > 2 or (padding and (len(text) + padding) % 4):
        fault = f"its length of {len(value)} characters is not possible"
    if fault:
        raise Invalid(f"is not base64: {fault}")
    return binascii.a2b_base64(text + "=" * (-len(text) % 4))


def _integer(low: int, high: int) -> Convert:
    def convert(value: Any) -> int:
        number = value
        if type(value) is str and (match := _NUMBER.fullmatch(value)) and len(value) <= 400:
            number = float(value) if match[1] or match[2] else int(value)
        if type(number) is float and number.is_integer():
            number = int(number)
        if type(number) is int and low <= number <= high:
            return number
        if type(value) not in (int, float, str):
            raise Invalid(f"must be a whole number, not {kind_of(value)}")
        raise Invalid(f"is {shown(value)}; it must be a whole number from {low} to {high}")

    return convert


def _double(value: Any) -> float:
    if type(value) is str:
        if value in _DOUBLES:
            return _DOUBLES[value]
        if not _NUMBER.fullmatch(value):
            raise Invalid(f"is {shown(value)}; it must be a number")
    elif type(value) not in (int, float):
        raise Invalid(f"must be a number, not {kind_of(value)}")
    return finite(value)


def finite(value: float | str) -> float:
    """Return a number as a double. Raises Invalid if it is too large."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise Invalid("is outside of the range of a double")
    return number


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise Invalid(f"must be true or false, not {kind_of(value)}")
    return value


def _enum(enum: EnumDescriptor) -> Convert:
    numbers = {each.name: each.number for each in enum.values}
    names = [each for each, number in numbers.items() if number]
    number_of = _integer(-(2**31), 2**31 - 1)

    def convert(value: Any) -> int:
        if type(value) is not str:
            return cast("int", number_of(value))
        number = numbers.get(value)
        if number is None:
            ending = "_" + cleaned(value).upper()
            near = [name for name in names if name.endswith(ending)]
            near = near or difflib.get_close_matches(ending, names, _MAX_NAMES, 0.7)
            listed = near or (names if len(names) <= _MAX_NAMES else [])
            one_of = f"one of {', '.join(listed)}" if listed else f"a name of {enum.name}"
            hint = f"did you mean {near[0]}?" if len(near) == 1 else f"it must be {one_of}"
            raise Invalid(f"is {shown(value)}; {hint}")
        return number

    return convert


def from_text(value: Any, message: Any, pattern: re.Pattern[str], expected: str) -> None:
    """Read a Duration or a Timestamp into `message`. Raises Invalid."""
    if type(value) is not str:
        raise Invalid(f"must be {expected}, not {kind_of(value)}")
    if pattern.fullmatch(value):
        try:
            message.FromJsonString(value)
        except (ValueError, OverflowError):
            pass
        else:
            return
    raise Invalid(f"is {shown(value)}; it must be {expected}")


_CONVERTERS: Mapping[int, Convert] = {
    FieldDescriptor.TYPE_BOOL: _boolean,
    FieldDescriptor.TYPE_BYTES: _bytes,
    FieldDescriptor.TYPE_DOUBLE: _double,
    FieldDescriptor.TYPE_INT32: _integer(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: _integer(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_STRING: string,
}
