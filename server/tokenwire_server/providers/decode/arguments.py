"""The arguments of a tool call, assembled from fragments."""

from __future__ import annotations

import re

import msgspec

from .json import join_surrogates, loads

_JSON_SPACE = " \t\n\r"
_TO_BRACKET = re.compile(r'(?:[^\[\]{}"]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Outside a string: matches all up to the next bracket, or up to an unfinished string."""
_TO_QUOTE = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""Inside a string: matches all up to its end, or up to a backslash that is the last character."""
_SCAN_CHARS = 16 * 1024
MAX_BRACKETS = 8 * 1024
"""Maximum number of opening brackets outside of strings, which are counted in 8 ms. One event can contain
300,000 of them as escapes, which `sse.MAX_EVENT_OBJECTS` does not count. Arguments with more are never
reported as complete by `Arguments.is_object`."""

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TRUNCATED = "Input data was truncated"
"""The error of msgspec for JSON that ends too early."""


class Arguments:
    """Fragments of JSON text, with a check whether they form a complete JSON object.

    `is_object` may be called after each fragment: each fragment is scanned for brackets once, and the text
    is parsed once, after the bracket that closes the object. From then on the object is complete, unless
    anything but white space follows. With more than MAX_BRACKETS, a complete object is not detected.
    """

    __slots__ = (
        "_bracket_count",
        "_depth",
        "_fragments",
        "_in_string",
        "_is_after_backslash",
        "_is_object",
        "_scanned_count",
        "_unscanned_chars",
    )

    def __init__(self) -> None:
        self._fragments: list[str] = []
        self._scanned_count = 0
        self._unscanned_chars = 0
        self._bracket_count = 0
        self._depth = 0
        self._in_string = False
        self._is_after_backslash = False
        self._is_object: bool | None = None
        """None if the object is not closed yet. False if it cannot become one, or has too many brackets."""

    @property
    def text(self) -> str:
        return "".join(self._fragments)

    def add(self, fragment: str) -> None:
        self._fragments.append(fragment)
        self._unscanned_chars += len(fragment)
        if self._unscanned_chars > _SCAN_CHARS:  # otherwise `is_object` scans it all at once
            self._scan_new()

    def is_object(self) -> bool:
        """Return whether the text so far is a JSON object."""
        self._scan_new()
        return self._is_object is True

    def is_open(self) -> bool:
        """Return whether the text so far is the beginning of an object that is not closed yet."""
        self._scan_new()
        return self._is_object is None and self._depth > 0

    def _scan_new(self) -> None:
        for count in range(self._scanned_count, len(self._fragments)):
            self._scan(self._fragments[count], count)
        self._scanned_count = len(self._fragments)
        self._unscanned_chars = 0

    def _scan(self, fragment: str, count: int) -> None:
        """Scan the fragment after the first `count` fragments."""
        if self._is_object is not None:
            self._is_object = self._is_object and not fragment.strip(_JSON_SPACE)
            return
        position = 0
        if not self._depth:
            position = len(fragment) - len(fragment.lstrip(_JSON_SPACE))
            if position < len(fragment) and fragment[position] != "{":
                self._is_object = False
                return
        end = self._find_end(fragment, position)
        if end is not None:
            whole = "".join(self._fragments[:count]) + fragment[:end]
            self._is_object = not fragment[end:].strip(_JSON_SPACE) and is_object(whole)

    def _find_end(self, fragment: str, position: int) -> int | None:
        """Return the position after the bracket that closes the object.

        None if the object is not closed, or has too many brackets.
        """
        while position < len(fragment):
            if self._in_string:
                if self._is_after_backslash:
                    self._is_after_backslash = False
                    position += 1
                position = _end_of(_TO_QUOTE, fragment, position)
                self._is_after_backslash = fragment[position : position + 1] == "\\"
                self._in_string = fragment[position : position + 1] != '"'
            else:
                position = _end_of(_TO_BRACKET, fragment, position)
                match fragment[position : position + 1]:
                    case '"':
                        self._in_string = True
                    case "{" | "[":
                        self._depth += 1
                        self._bracket_count += 1
                        if self._bracket_count > MAX_BRACKETS:
                            self._is_object = False
                            return None
                    case "}" | "]":
                        self._depth -= 1
                        if not self._depth:
                            return position + 1
            position += 1
        return None


class ArgumentsCheck(msgspec.Struct, frozen=True):
    """Whether a text is a JSON object, and what is wrong with it otherwise."""

    problem: str = ""
    """Names positions and types, but nothing of the text. Empty if the text is a JSON object."""
    is_cut: bool = False
    """Whether the text ends before its JSON value does. Blank text is not cut."""

    @property
    def is_object(self) -> bool:
        return not self.problem


_OBJECT = ArgumentsCheck()


def check_object(text: str) -> ArgumentsCheck:
    """Check that a text is a JSON object."""
    try:
        loads(_object_decoder, join_surrogates(text).encode(), keep_surrogates=False)
    except msgspec.DecodeError as error:
        is_cut = str(error) == _TRUNCATED and bool(text.strip())
        return ArgumentsCheck(f"the arguments are not a JSON object: {error}", is_cut)
    return _OBJECT


def is_object(text: str) -> bool:
    """Return whether a text is a JSON object."""
    return check_object(text).is_object


def _end_of(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return position if found is None else found.end()
