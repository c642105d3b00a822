"""A JSON text that is parsed while it grows. Pure: no I/O, no gRPC."""

from __future__ import annotations

import json
import re
from enum import Enum, auto

from .._json import Json
from .json_values import MAX_DEPTH

MAX_NUMBER_CHARACTERS = 4096
"""Longest number. By default, Python reads no integers of more than 4,300 digits."""

_BLANKS = re.compile(r"[ \t\n\r]*+")
# A high surrogate at the end of the text waits for the low one.
_LOW_SURROGATE_MAY_FOLLOW = r"(?![dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z)"
_STRING_CHARACTERS = re.compile(
    r'[^"\\\x00-\x1f]*+'
    rf'(?:\\(?:["\\/bfnrt]|u{_LOW_SURROGATE_MAY_FOLLOW}[0-9a-fA-F]{{4}})[^"\\\x00-\x1f]*+)*+'
)
_PART_OF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,4}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)?")
_SCALAR = re.compile(r"[-+.0-9a-zA-Z]++")


class _Next(Enum):
    """What the next token of the text can be."""

    VALUE = auto()
    FIRST_ELEMENT = auto()  # or the end of the array
    NAME = auto()
    FIRST_NAME = auto()  # or the end of the object
    COLON = auto()
    COMMA = auto()  # or the end of the array or object
    STRING = auto()  # the rest of one
    NOTHING = auto()


class GrowingJson:
    """A JSON text that is parsed while it grows. `value` is the value so far.

    A string is part of the value from its first character on, and an object or array from its opening
    bracket. A number, true, false or null is part of it when it is complete. Each character is parsed once.
    Each access to `value` takes time in proportion to the length of the string that is still open. Text after
    the value is ignored.
    """

    def __init__(self) -> None:
        self.is_readable = True
        """False if the text is not JSON, is nested more than MAX_DEPTH deep, or has a number of more than
        MAX_NUMBER_CHARACTERS characters. `value` then stays as it is."""
        self._root: list[Json] = []
        self._open: list[list[Json] | dict[str, Json]] = []
        self._names: list[str] = []
        """The names of the open members, one for each open object that has one."""
        self._next = _Next.VALUE
        self._string: list[str] = []
        """The pieces of the open string."""
        self._is_name = False
        """Whether the open string is the name of a member."""
        self._rest = ""
        """Text that cannot be parsed before more arrives: a part of an escape, a number or a literal."""

    @property
    def value(self) -> Json:
        """The value so far. None: nothing yet. It changes with the text: copy it to keep it."""
        if self._next is _Next.STRING and not self._is_name:
            self._update_string()
        return self._root[0] if self._root else None

    def add(self, text: str) -> None:
        """Add the next piece of the text."""
        if not self.is_readable or self._next is _Next.NOTHING:
            return
        text, self._rest = self._rest + text, ""
        position = 0
        try:
            while position < len(text):
                position = self._step(text, position)
        except ValueError:
            self.is_readable = False

    def _step(self, text: str, position: int) -> int:
        """Parse one token. Return the position after it."""
        if self._next is _Next.STRING:
            return self._read_string(text, position)
        if (blanks := _BLANKS.match(text, position)) and blanks.end() > position:
            return blanks.end()
        character = text[position]
        match self._next, character:
            case _Next.NOTHING, _:
                return len(text)
            case ((_Next.NAME | _Next.FIRST_NAME), '"'):
                self._start_string(is_name=True)
            case _Next.COLON, ":":
                self._next = _Next.VALUE
            case _Next.COMMA, ",":
                is_object = isinstance(self._open[-1], dict)
                self._next = _Next.NAME if is_object else _Next.VALUE
            case ((_Next.COMMA | _Next.FIRST_NAME), "}") if isinstance(self._open[-1], dict):
                self._close()
            case ((_Next.COMMA | _Next.FIRST_ELEMENT), "]") if isinstance(self._open[-1], list):
                self._close()
            case ((_Next.VALUE | _Next.FIRST_ELEMENT), _):
                return self._start_value(text, position)
            case _:
                raise ValueError(f"unexpected {character!r}")
        return position + 1

    def _start_value(self, text: str, position: int) -> int:
        character = text[position]
        match character:
            case '"':
                self._put("")
                self._start_string(is_name=False)
            case "{":
                self._start_container({}, _Next.FIRST_NAME)
            case "[":
                self._start_container([], _Next.FIRST_ELEMENT)
            case _:
                return self._read_scalar(text, position)
        return position + 1

    def _read_scalar(self, text: str, position: int) -> int:
        """Parse a number or literal. At the end of the text it may be incomplete, and is not parsed."""
        scalar = _SCALAR.match(text, position)
        if scalar is None or scalar.end() - position > MAX_NUMBER_CHARACTERS:
            raise ValueError("not a number")
        if scalar.end() == len(text):
            self._rest = scalar[0]
        else:
            self._put(json.loads(scalar[0], parse_constant=_refuse_constant))
            self._end_value()
        return scalar.end()

    def _start_string(self, *, is_name: bool) -> None:
        self._string = []
        self._is_name = is_name
        self._next = _Next.STRING

    def _read_string(self, text: str, position: int) -> int:
        found = _STRING_CHARACTERS.match(text, position)
        end = position if found is None else found.end()
        if end > position:
            piece = text[position:end]
            self._string.append(json.loads(f'"{piece}"') if "\\" in piece else piece)
        if end == len(text):
            return end
        if text[end] != '"':
            if not _PART_OF_ESCAPE.fullmatch(text, end):
                raise ValueError("not a string")
            self._rest = text[end:]
            return len(text)
        if self._is_name:
            self._names.append("".join(self._string))
            self._next = _Next.COLON
        else:
            self._update_string()
            self._end_value()
        return end + 1

    def _update_string(self) -> None:
        """Replace the value of the open string by its text so far."""
        self._string = ["".join(self._string)]
        self._replace(self._string[0])

    def _start_container(self, container: list[Json] | dict[str, Json], following: _Next) -> None:
        if len(self._open) == MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        self._put(container)
        self._open.append(container)
        self._next = following

    def _close(self) -> None:
        self._open.pop()
        self._end_value()

    def _end_value(self) -> None:
        if not self._open:
            self._next = _Next.NOTHING
            return
        if isinstance(self._open[-1], dict):
            self._names.pop()
        self._next = _Next.COMMA

    def _put(self, value: Json) -> None:
        """Add a value to the innermost open array or object."""
        container = self._open[-1] if self._open else self._root
        if isinstance(container, dict):
            container[self._names[-1]] = value
        else:
            container.append(value)

    def _replace(self, value: Json) -> None:
        """Replace the value that was added last."""
        container = self._open[-1] if self._open else self._root
        if isinstance(container, dict):
            container[self._names[-1]] = value
        else:
            container[-1] = value


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")
