"""Reading one JSON document (RFC 8259) piece by piece.

Pieces may end anywhere: in an escape, in a number, in a literal. Runs of characters are found by compiled
expressions that do not backtrack, so that the time is linear. What cannot be decided at the end of a piece
(at most 11 characters of an escape or a literal) is read again with the next piece.
"""

from __future__ import annotations

import re

from ...events import JsonValue
from . import bounds
from .bounds import Violations
from .members import Members
from .numbers import FINAL_STATES, NUMBER_STARTS, SIGN, read_number

WHITESPACE = " \t\n\r"

_string_run = re.compile(
    r"""(?:[^"\\\x00-\x1f]++
      |\\["\\/bfnrt]
      |\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}
      |\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}
    )*+""",
    re.VERBOSE,
).match
"""Characters and whole escapes of a string, without lone surrogates."""
_cut_escape = re.compile(
    r"""\\(?:u[0-9a-fA-F]{0,3})?\Z
      |\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?\Z
    """,
    re.VERBOSE,
).match
"""The beginning of an escape or of a surrogate pair at the end of a piece."""
_lone_surrogate = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}").match
_escape_start = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?").match
_whitespace_run = re.compile(r"[ \t\n\r]++").match

_LITERALS = {"t": "true", "f": "false", "n": "null"}
_AFTER_NUMBER = frozenset(WHITESPACE + ",]}")
_AFTER_DOCUMENT = frozenset(WHITESPACE)

# What comes next.
_VALUE, _VALUE_OR_END, _NAME, _NAME_OR_END, _COLON, _COMMA_OR_END, _END = range(7)
_IN_STRING, _IN_NAME, _IN_NUMBER = range(7, 10)

_EXPECTED = {
    _VALUE: "a value",
    _VALUE_OR_END: "a value or ']'",
    _NAME: "a name in quotes",
    _NAME_OR_END: "a name in quotes or '}'",
    _COLON: "':'",
}
_CUT = {
    **{state: f"before {expected}" for state, expected in _EXPECTED.items()},
    _COMMA_OR_END: "after a value",
    _IN_STRING: "inside a string",
    _IN_NAME: "inside a name",
    _IN_NUMBER: "inside a number",
}


class Scanner:
    """Reads one document from its first character, which is not whitespace.

    Positions count characters of the document; descriptions add `origin`, the number of characters before it.
    """

    __slots__ = (
        "_base",
        "_members",
        "_number",
        "_origin",
        "_start",
        "_state",
        "_tail",
        "_violations",
        "invalid_at",
    )

    def __init__(self, index: int, origin: int, violations: Violations) -> None:
        self.invalid_at: int | None = None
        """Position of the first character that no document can have there, or that exceeds a limit."""
        self._origin = origin
        self._violations = violations
        self._members = Members(index, violations)
        self._state = _VALUE
        self._number = SIGN
        self._start = 0
        """Position of the current string, number or name."""
        self._base = 0
        """Position of the first character of the piece."""
        self._tail = ""
        """The undecided end of the last piece."""

    @property
    def is_over(self) -> bool:
        """Whether the document is complete or invalid."""
        return self._state == _END

    @property
    def chars(self) -> int:
        """Number of characters of a complete document."""
        return self._base

    @property
    def text(self) -> str:
        """The text of a complete document."""
        return self._members.text()

    def feed(self, text: str, values: list[JsonValue]) -> int:
        """Read a piece, and append the values that it completes. Return the number of characters read.

        These are fewer than the piece has only if the document is over.
        """
        tail = self._tail
        self._members.values = values
        self._members.write(text)
        if tail:
            self._tail = ""
            text = tail + text
        end = len(text)
        excess = self._base + end - bounds.MAX_DOCUMENT_CHARS
        if excess > 0:
            text = text[:-excess]
            end -= excess
        position = self._scan(text, end)
        if excess > 0 and self._state != _END:
            limit = f"{bounds.MAX_DOCUMENT_CHARS:,}"
            self._exceed(end, f"the document is longer than {limit} characters")
        self._base += position
        if self._state == _END:
            self._members.cut(0 if self.invalid_at is not None else self._base)
        return position + len(self._tail) - len(tail)

    def finish(self, values: list[JsonValue]) -> None:
        """End the text. A number outside of containers is complete only then; everything else is cut off."""
        if self._state == _END:
            return
        self._members.values = values
        end = self._base + len(self._tail)
        is_number = self._state == _IN_NUMBER and self._number in FINAL_STATES
        if is_number and not self._members.open:
            self._end_scalar(0, is_number=True)
            return
        place = "inside a literal" if self._tail and self._state in _EXPECTED else _CUT[self._state]
        self._violations.add_first(
            self._members.pointer,
            f"the document is cut off at character {self._origin + end}, {place}",
        )
        self._members.cut(0)
        self.invalid_at = end
        self._state = _END

    def _scan(self, text: str, end: int) -> int:
        """Read characters. Return the position after the last one that was read; `_tail` begins there."""
        position = 0
        while position < end:
            state = self._state
            if state >= _IN_STRING:
                if state == _IN_NUMBER:
                    position = self._read_number(text, position, end)
                    continue
                position = _string_run(text, position).end()  # type: ignore[union-attr]  # matches ""
                if position == end:
                    break
                char = text[position]
                if char == '"':
                    position += 1
                    self._end_string(position)
                elif char != "\\":
                    self._fail(position, f"unescaped control character {char!r}")
                else:
                    position = self._read_rare_escape(text, position)
                    if self._tail:
                        break
                continue
            if state == _END:
                break
            char = text[position]
            if char in WHITESPACE:
                position = _whitespace_run(text, position).end()  # type: ignore[union-attr]
            elif state == _COMMA_OR_END:
                is_array = self._members.open[-1].names is None
                if char == ",":
                    self._state = _VALUE if is_array else _NAME
                    position += 1
                elif char == ("]" if is_array else "}"):
                    position += 1
                    self._close(position)
                else:
                    self._fail_expected(position, "',' or ']'" if is_array else "',' or '}'", char)
            elif state == _COLON:
                if char == ":":
                    self._state = _VALUE
                    position += 1
                else:
                    self._fail_expected(position, "':'", char)
            elif state <= _VALUE_OR_END:
                if char == "]" and state == _VALUE_OR_END:
                    position += 1
                    self._close(position)
                    continue
                position = self._begin_value(text, position, char)
                if self._tail:
                    break
            elif char == '"':
                self._start = self._base + position
                self._state = _IN_NAME
                position += 1
            elif char == "}" and state == _NAME_OR_END:
                position += 1
                self._close(position)
            else:
                self._fail_expected(position, _EXPECTED[state], char)
        return position

    def _begin_value(self, text: str, position: int, char: str) -> int:
        self._start = self._base + position
        if char == '"':
            self._state = _IN_STRING
        elif char in NUMBER_STARTS:
            self._number = NUMBER_STARTS[char]
            self._state = _IN_NUMBER
        elif char in "{[":
            limit = self._members.begin(self._start, is_object=char == "{")
            if limit:
                self._exceed(position, limit)
                return position
            self._state = _NAME_OR_END if char == "{" else _VALUE_OR_END
        elif char in _LITERALS:
            return self._read_literal(text, position, _LITERALS[char])
        else:
            self._fail_expected(position, _EXPECTED[self._state], char)
            return position
        return position + 1

    def _read_literal(self, text: str, position: int, literal: str) -> int:
        start = position
        found = text[position : position + len(literal)]
        if found == literal:
            position += len(literal)
            self._end_scalar(position)
        elif literal.startswith(found):
            self._tail = found
        else:
            while text[position] == literal[position - start]:
                position += 1
            self._fail_expected(position, repr(literal), text[position])
        return position

    def _read_number(self, text: str, position: int, end: int) -> int:
        self._number, position = read_number(self._number, text, position, end)
        limit = self._start + bounds.MAX_NUMBER_CHARS - self._base
        if position > limit:
            self._exceed(limit, f"a number is longer than {bounds.MAX_NUMBER_CHARS:,} characters")
        elif position < end:
            char = text[position]
            if self._number not in FINAL_STATES:
                self._fail_expected(position, "a digit", char)
            elif char not in (_AFTER_NUMBER if self._members.open else _AFTER_DOCUMENT):
                self._fail(position, f"{char!r} in a number")
            else:
                self._end_scalar(position, is_number=True)
        return position

    def _read_rare_escape(self, text: str, position: int) -> int:
        """Read an escape that is cut off, half of a surrogate pair, or invalid."""
        if _cut_escape(text, position):
            self._tail = text[position:]
        elif _lone_surrogate(text, position):
            escape = text[position : position + 6]
            at = self._origin + self._base + position
            what = f"{escape} at character {at} is half of a surrogate pair"
            self._violations.add(self._members.pointer, what)
            self._violations.is_representable = False
            position += 6
        else:
            position = _escape_start(text, position).end()  # type: ignore[union-attr]
            self._fail(position, f"{text[position]!r} in an escape")
        return position

    def _end_string(self, position: int) -> None:
        if self._state == _IN_STRING:
            self._end_scalar(position)
            return
        self._state = _COLON
        limit = self._members.name(self._start, self._base + position)
        if limit:
            self._exceed(position, limit)

    def _end_scalar(self, position: int, *, is_number: bool = False) -> None:
        self._state = _COMMA_OR_END if self._members.open else _END
        limit = self._members.scalar(self._start, self._base + position, is_number=is_number)
        if limit:
            self._exceed(position, limit)

    def _close(self, position: int) -> None:
        limit = self._members.close(self._base + position)
        self._state = _COMMA_OR_END if self._members.open else _END
        if limit:
            self._exceed(position, limit)

    def _fail_expected(self, position: int, expected: str, char: str) -> None:
        self._fail(position, f"expected {expected}, found {char!r}")

    def _fail(self, position: int, problem: str) -> None:
        at = self._origin + self._base + position
        self._stop(position, f"invalid JSON at character {at}: {problem}")

    def _exceed(self, position: int, limit: str) -> None:
        at = self._origin + self._base + position
        self._stop(position, f"{limit}, at character {at}")

    def _stop(self, position: int, description: str) -> None:
        self._violations.add_first(self._members.pointer, description)
        self.invalid_at = self._base + position
        self._state = _END
