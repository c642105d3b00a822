"""Recognition of events that differ only in their text, as most events of an answer do.

Decoding the JSON of an event takes longer than all other work of a decoder. In most answers, the bytes around
the text are the same in each event, except for values that no decoder reads: the number of the event, and
random padding. So these bytes are compared with those of an earlier event, and only the text between them is
read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

MAX_EVENT_BYTES = 8192
MAX_BLANKS = 64
MAX_ATTEMPTS = 4
"""Number of templates that are tried until an event is like one of them. After that, all events of the answer
are decoded: some servers pad their events, so that no two are alike."""

_QUOTE, _BACKSLASH = b'"\\'  # a byte is found in bytes five times as fast as bytes of length 1

_ESCAPED_NAME = re.compile(rb'\\["u]')
"""Escapes that can hide the name of a member, or put one into a string."""

_Ignored = tuple[re.Pattern[bytes], Callable[[bytes], object]]
"""A value that is ignored: a pattern that finds it, and a check of the bytes that another event has there."""


def _is_number(value: bytes) -> bool:
    return value.isdigit() and value >= b"1"  # JSON allows no zeros at the beginning


_BLANKS = frozenset(b" " * count for count in range(MAX_BLANKS + 1))
PADDING: _Ignored = (re.compile(rb'"obfuscation"\s*:\s*"([0-9A-Za-z]+)"'), bytes.isalnum)
"""OpenAI's padding."""
NUMBER: _Ignored = (re.compile(rb'"sequence_number"\s*:\s*([1-9][0-9]*)'), _is_number)
"""The number of an event of Responses."""
BLANKS: _Ignored = (re.compile(rb"}( +)}\n\n\Z"), _BLANKS.__contains__)
"""Anthropic's padding: blanks before the brace that ends the event."""


class RepeatedEvent:
    """The bytes of an event around its text.

    `member` is the name of the JSON member with the text. `ignored` are values that do not matter for what
    an event means, wherever they are in it.
    """

    __slots__ = (
        "_after",
        "_attempts",
        "_before",
        "_ignored",
        "_name",
        "_prefix",
        "_suffix",
        "_text",
    )

    def __init__(self, member: str, ignored: Sequence[_Ignored] = ()) -> None:
        self._name = b'"%b"' % member.encode()
        self._text = re.compile(rb'%b\s*:\s*"([^"\\]+)"' % self._name)
        self._ignored = ignored
        self._prefix = self._suffix = b""
        self._before: list[tuple[bytes, bytes, Callable[[bytes], object]]] = []
        """Ignored values between the prefix and the text. For each: the first byte after it, the other bytes
        up to the next value or the text, and the check of its bytes."""
        self._after: list[tuple[bytes, bytes, Callable[[bytes], object]]] = []
        """Ignored values between the text and the suffix, the last one first. For each: the last byte before
        it, the other bytes from the value or the text before it, and the check of its bytes."""
        self._attempts = 0

    def learn(self, data: bytes, text: str) -> bool:
        """Use an event as the template of later ones. Return whether it can be used, see `text_of`.

        `data` is the whole event with its blank line. With other text in the place of `text`, it must mean
        the same apart from that text.
        """
        self._attempts += 1
        found = self._text.search(data)
        if (
            found is None
            or found[1] != text.encode(errors="replace")
            or data.count(self._name) != 1
            or _ESCAPED_NAME.search(data)
            or len(data) > MAX_EVENT_BYTES
            or not data.endswith(b"\n\n")
        ):
            return False
        start, end = found.span(1)
        ignored = sorted(
            (*value.span(1), is_allowed)
            for pattern, is_allowed in self._ignored
            for value in pattern.finditer(data)
        )
        self._before, self._after = [], []
        for value_start, value_end, is_allowed in reversed(ignored):
            if value_end <= start:
                separator = data[value_end:start]
                self._before.insert(0, (separator[:1], separator[1:], is_allowed))
                start = value_start
        for value_start, value_end, is_allowed in ignored:
            if value_start >= end:
                separator = data[end:value_start]
                self._after.insert(0, (separator[-1:], separator[:-1], is_allowed))
                end = value_end
        self._prefix, self._suffix = data[:start], data[end:]
        return True

    def text_of(self, data: bytes) -> str | None:
        """Return the text of an event that is like the template, apart from it and from ignored values.

        Return "" if the event must be decoded. Return None if it must be decoded and may become the next
        template: pass it to `learn` if it has text and nothing else. `data` must begin with a new event.
        """
        rest = data.removeprefix(self._prefix)
        content = rest.removesuffix(self._suffix)
        if rest is data or content is rest or len(data) > MAX_EVENT_BYTES:
            return self._unlike(data)
        # A value cannot contain the first byte after it, or the last one before it. So there is only one way
        # to split the content.
        for first, others, is_allowed in self._before:
            value, _, rest = content.partition(first)
            content = rest.removeprefix(others)
            if content is rest or not is_allowed(value):
                return self._unlike(data)
        for last, others, is_allowed in self._after:
            rest, _, value = content.rpartition(last)
            content = rest.removesuffix(others)
            if content is rest or not is_allowed(value):
                return self._unlike(data)
        if _QUOTE in content or _BACKSLASH in content:
            return ""
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return ""
        if not text.isprintable():
            return ""
        self._attempts = 0
        return text

    def _unlike(self, data: bytes) -> str | None:
        """Return what `text_of` returns for an event that is not like the template."""
        if len(data) > MAX_EVENT_BYTES:
            return ""
        if self._attempts < MAX_ATTEMPTS:
            return None
        self._prefix = b""  # no more events are compared with it
        return ""
