"""Recognition of events that differ only in their text, as most events of an answer do.

Decoding the JSON of an event takes longer than all other work of a decoder. In most answers, the bytes around
the text are the same in each event, except for values that no decoder reads: the number of the event, and
random padding. So these bytes are compared with those of an earlier event, and only the text between them is
decoded. Most short texts have occurred before, in this answer or in others: they are looked up, not decoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from ...events import TextDelta
from .sse import Item, SSEFramer

MAX_EVENT_BYTES = 8192
MAX_BLANKS = 64
MAX_ATTEMPTS = 4
"""Number of templates that are tried until an event is like one of them. After that, all events of the answer
are decoded: some servers pad their events, so that no two are alike."""
MAX_SHORT_BYTES = 16
"""Length of the longest text that is kept. Most tokens are shorter."""
MAX_SHORT_TEXTS = 4096
"""Maximum number of these texts. If it is reached, all are dropped; frequent ones are soon added again."""

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

_string = msgspec.json.Decoder(str).decode
_short_texts: dict[bytes, TextDelta] = {}
"""Short texts of all answers as deltas of block 0, by their JSON without quotes. Logs share these deltas."""


def _decode(content: bytes) -> TextDelta | None:
    """Return a JSON string, given without quotes, as a delta of block 0. None: it is empty or not valid."""
    try:
        text = _string(b'"%b"' % content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not text:
        return None
    delta = TextDelta(text, 0)
    if len(content) <= MAX_SHORT_BYTES:
        if len(_short_texts) >= MAX_SHORT_TEXTS:
            _short_texts.clear()
        _short_texts[content] = delta
    return delta


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
        "_split_suffix",
        "_suffix",
        "_text",
        "needs_template",
    )

    def __init__(self, member: str, ignored: tuple[_Ignored, ...] = ()) -> None:
        self._name = b'"%b"' % member.encode()
        self._text = re.compile(rb'%b\s*:\s*"([^"\\]+)"' % self._name)
        self._ignored = ignored
        self._prefix = self._suffix = self._split_suffix = b""
        self._before: Sequence[tuple[bytes, bytes, Callable[[bytes], object]]] = ()
        """Ignored values between the prefix and the text. For each: the first byte after it, the other bytes
        up to the next value or the text, and the check of its bytes."""
        self._after: Sequence[tuple[bytes, bytes, Callable[[bytes], object]]] = ()
        """Ignored values between the text and the suffix, the last one first. For each: the last byte before
        it, the other bytes from the value or the text before it, and the check of its bytes."""
        self._attempts = 0
        self.needs_template = True
        """Whether no event of the last `feed` was like the template. If its last event has text and nothing
        else, pass it to `learn`."""

    def learn(self, data: bytes, payload: bytes, text: str) -> bool:
        """Use the last event of `data` as the template of later ones. Return whether it can be used.

        `payload` is its data. With other text in the place of `text`, it must mean the same apart from that
        text.
        """
        self._attempts += 1
        before, blank_line, _ = data.rpartition(b"\n\n")
        event = before.rpartition(b"\n\n")[2] + blank_line
        found = self._text.search(event)
        if (
            found is None
            or payload not in event
            or found[1] != text.encode(errors="replace")
            or event.count(self._name) != 1
            or _ESCAPED_NAME.search(event)
            or b"\r" in event  # it ends lines, too: these may be two events
            or len(event) > MAX_EVENT_BYTES
            or not blank_line
        ):
            return False
        start, end = found.span(1)
        ignored = sorted(
            (*value.span(1), is_allowed)
            for pattern, is_allowed in self._ignored
            for value in pattern.finditer(event)
        )
        self._before, self._after = (), ()
        for value_start, value_end, is_allowed in reversed(ignored):
            if value_end <= start:
                separator = event[value_end:start]
                self._before = ((separator[:1], separator[1:], is_allowed), *self._before)
                start = value_start
        for value_start, value_end, is_allowed in ignored:
            if value_start >= end:
                separator = event[end:value_start]
                self._after = ((separator[-1:], separator[:-1], is_allowed), *self._after)
                end = value_end
        self._prefix, self._suffix = event[:start], event[end:]
        self._split_suffix = event[end:-2]
        return True

    def delta_of(self, event: bytes, *, is_split: bool = False) -> TextDelta | None:
        """Return the text of an event like the template, as a delta of block 0. None: pass it to `feed`.

        `event` must begin with a new event. `is_split` means that it is without the line feeds at its end.
        """
        rest = event.removeprefix(self._prefix)
        if rest is event:
            return None
        content = rest.removesuffix(self._split_suffix if is_split else self._suffix)
        if content is rest or len(event) > MAX_EVENT_BYTES:
            return None
        if self._before or self._after:
            value = self._without_ignored(content)
            if value is None:
                return None
            content = value
        delta = _short_texts.get(content) or _decode(content)
        if delta is not None:
            self._attempts, self.needs_template = 0, False
        return delta

    def feed(self, framer: SSEFramer, data: bytes) -> list[Item]:
        """Split bytes into events with `framer`. Return only the text of those that are like the template.

        If `data` is one event, `delta_of` has not found it to be like the template.
        """
        # The last event has begun in these bytes.
        self.needs_template = framer.is_between_events or data.find(b"\n\n") < data.rfind(b"\n\n")
        items = framer.feed(data, self if self._prefix else None)
        if self.needs_template and self._attempts >= MAX_ATTEMPTS:
            self.needs_template = False
            self._prefix = b""  # no more events are compared with it
        return items

    def _without_ignored(self, content: bytes) -> bytes | None:
        """Return the text's JSON, without ignored values. None: they are not where the template has them."""
        # A value cannot contain the first byte after it, or the last one before it. So there is only one way
        # to split the content.
        for first, others, is_allowed in self._before:
            value, _, rest = content.partition(first)
            content = rest.removeprefix(others)
            if content is rest or not is_allowed(value):
                return None
        for last, others, is_allowed in self._after:
            rest, _, value = content.rpartition(last)
            content = rest.removesuffix(others)
            if content is rest or not is_allowed(value):
                return None
        return content
