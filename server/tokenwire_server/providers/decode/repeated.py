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
from .sse import SSEFramer

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

Item = TextDelta | tuple[bytes, bytes]
"""The text of an event like the template, as a delta of block 0. Or another event: its name and data."""
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

    def learn(self, data: bytes, payload: bytes, text: str, *, is_whole: bool) -> bool:
        """Use the last event of `data` as the template of later ones. Return whether it can be used.

        `payload` is its data. With other text in the place of `text`, it must mean the same apart from that
        text. `is_whole` tells whether `data` begins with a new event.
        """
        event = _last_event(data, is_whole=is_whole)
        if not event:
            return False
        self._attempts += 1
        found = self._text.search(event)
        if (
            found is None
            or payload not in event
            or found[1] != text.encode(errors="replace")
            or event.count(self._name) != 1
            or _ESCAPED_NAME.search(event)
            or b"\r" in event  # it ends lines, too: these may be two events
            or len(event) > MAX_EVENT_BYTES
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
        content = rest.removesuffix(self._split_suffix if is_split else self._suffix)
        if rest is event or content is rest or len(event) > MAX_EVENT_BYTES:
            return None
        if self._before or self._after:
            value = self._without_ignored(content)
            if value is None:
                return None
            content = value
        delta = _short_texts.get(content) or _decode(content)
        if delta is not None:
            self._attempts = 0
        return delta

    def feed(self, framer: SSEFramer, data: bytes) -> list[Item]:
        """Split bytes into events with `framer`. Return only the text of those that are like the template.

        If `data` is one event, `delta_of` has not found it to be like the template.
        """
        prefix = self._prefix
        is_one = framer.is_between_events and data.find(b"\n\n") in (-1, len(data) - 2)
        if is_one or not prefix or not (data.startswith(prefix) or prefix in data):
            self._note(is_match=False)
            return [*framer.feed(data)]
        items: list[Item] = []
        if not framer.is_between_events:
            begin = data.find(b"\n\n") + 2
            items += framer.feed(data[:begin] if begin >= 2 else data)
            if begin < 2 or framer.overflowed:
                return items
            data = data[begin:]
        is_match = False
        others: list[bytes] = []
        *events, rest = data.split(b"\n\n")
        for event in events:
            delta = self.delta_of(event, is_split=True)
            if delta is None:
                others.append(event)
                continue
            is_match = True
            if others:
                items += framer.feed(b"\n\n".join([*others, b""]))
                if framer.overflowed:
                    return items
                others.clear()
            items.append(delta)
        if others or rest:
            items += framer.feed(b"\n\n".join([*others, rest]))
        self._note(is_match=is_match)
        return items

    def _note(self, *, is_match: bool) -> None:
        """Note whether an event of a feed was like the template."""
        self.needs_template = not is_match and self._attempts < MAX_ATTEMPTS
        if not is_match and not self.needs_template:
            self._prefix = b""  # no more events are compared with it

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


def _last_event(data: bytes, *, is_whole: bool) -> bytes:
    """Return the last complete event of `data`, with its blank line. Empty if it began before `data`."""
    end = data.rfind(b"\n\n")
    end_before = data.rfind(b"\n\n", 0, max(end, 0))
    if end < 0 or (end_before < 0 and not is_whole):
        return b""
    return data[end_before + 2 if end_before >= 0 else 0 : end + 2]
