"""Framing of Server-Sent Events. https://html.spec.whatwg.org/multipage/server-sent-events.html

Every token passes through this module. So bytes are not decoded here, and data that begins and ends between
two events is split without parsing its lines. Only an unfinished event is kept between two feeds.
"""

from __future__ import annotations

from typing import Any, Protocol

from ...events import TextDelta

MAX_EVENT_BYTES = 4 * 2**20
MAX_EVENT_OBJECTS = 64 * 1024
"""Maximum number of opening braces and brackets in one event. An event is decoded in one step: 4 MiB of text
take 5 ms, 4 MiB of empty JSON objects half a second, and this many objects 30 ms, or 60 ms if the event also
contains half a surrogate pair. The Responses API repeats the tools of a request in its first two events and
the last one: 512 tools with 65,000 schema nodes have 33,300 opening braces."""
SMALL_EVENT_BYTES = 2 * MAX_EVENT_OBJECTS
"""Events up to this size cannot contain more objects, so their objects are not counted."""

_BOM = b"\xef\xbb\xbf"
_LF, _CR = b"\n\r"  # a byte is found in bytes five times as fast as bytes of length 1


Item = TextDelta | tuple[bytes, bytes]
"""An event: its name and data. Or what a `Recognizer` has returned for it."""


class Recognizer(Protocol):
    """Recognizes events by their bytes."""

    def delta_of(self, event: bytes, *, is_split: bool = False) -> TextDelta | None:
        """Return the text of an event, or None if the event must be read. See `RepeatedEvent`."""
        ...


class SSEFramer:
    """Splits a `text/event-stream`, in pieces of any size, into events.

    An event is `(name, data)`. The name is empty if the event has none; `data` is the values of its `data`
    lines, joined by line feeds. Comments, `id` and `retry` are dropped, and so are events without a `data`
    line. A field `error`, with which llama.cpp reported errors until 2025, is the data of an event with that
    name. Bytes are not checked to be UTF-8.

    `max_event_bytes` bounds each line, the data of each event, and so the memory between feeds. If a line
    or an event is longer, or an event has more than `MAX_EVENT_OBJECTS`, `overflowed` is set, and no more
    events are returned: the stream is unusable.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_line",
        "_max",
        "_name",
        "_small",
        "is_between_events",
        "overflowed",
    )

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.overflowed = False
        self.is_between_events = False
        """Whether the next byte begins an event."""
        self._max = max_event_bytes
        self._small = min(max_event_bytes, SMALL_EVENT_BYTES)
        self._at_start = True
        self._after_cr = False
        self._line = bytearray()
        self._data = bytearray()  # the specification's data buffer: each line with its line feed
        self._name = b""

    def feed(self, data: bytes, recognizer: Recognizer | None = None) -> list[Item]:
        """Split the next bytes. Return the events that they complete, in order.

        `recognizer` is asked first for whole events among several. For one whole event, ask it before.
        """
        if self.is_between_events and _CR not in data and len(data) <= self._small:
            # One whole event: the usual case when each event arrives by itself.
            name = b""
            line, _, rest = data.partition(b"\n")
            if line[:7] == b"event: ":
                name = line[7:]
                line, _, rest = rest.partition(b"\n")
            payload = line.removeprefix(b"data: ")
            if payload is not line and rest == b"\n":
                return [(name, payload)]
        events = [] if self.overflowed else self._feed(data, recognizer)
        self.is_between_events = not (
            self._line
            or self._data
            or self._name
            or self._after_cr
            or self._at_start
            or self.overflowed
        )
        return events

    def _feed(self, data: bytes, recognizer: Recognizer | None) -> list[Item]:
        if self._at_start:
            data = self._skip_bom(data)
        if self._after_cr or _CR in data:
            data = self._normalise(data)
        events: list[Item] = []
        position = 0
        if self._line or self._data or self._name:
            position = self._read_event(data, 0, events)
        end = data.rfind(b"\n\n", position)
        if end >= 0 and not self.overflowed:
            self._split(data[position:end], events, recognizer)
            position = end + 2
        if not self.overflowed:
            self._read_all(data, position, events)
        return events

    def eof(self) -> list[tuple[bytes, bytes]]:
        """Handle the end of the stream. Return its last event if only the blank line after it is missing.

        The specification and the SDKs drop such an event, but some servers send no blank line after the
        last event. The event may have been cut off; the caller must be able to detect that.
        """
        if self.overflowed:
            return []
        events: list[Any] = []
        self._read_event(b"\n\n", 0, events)
        return events

    def _skip_bom(self, data: bytes) -> bytes:
        data = bytes(self._line) + data
        self._line.clear()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._line += data
            return b""
        self._at_start = False
        return data.removeprefix(_BOM)

    def _normalise(self, data: bytes) -> bytes:
        """Convert all line ends to line feeds. A carriage return ends its line immediately."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if data.endswith(b"\r"):
            self._after_cr = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _split(self, data: bytes, events: list[Item], recognizer: Recognizer | None) -> None:
        """Split complete events, starting between two events."""
        max_bytes = self._small
        for frame in data.split(b"\n\n"):
            if recognizer is not None:
                delta = recognizer.delta_of(frame, is_split=True)
                if delta is not None:
                    events.append(delta)
                    continue
            if len(frame) <= max_bytes:
                if _LF not in frame:
                    if frame.startswith(b"data: "):
                        events.append((b"", frame[6:]))
                        continue
                    if frame.startswith(b":"):
                        continue
                elif frame.startswith(b"event: "):
                    name, _, rest = frame.partition(b"\n")
                    if rest.startswith(b"data: ") and _LF not in rest:
                        events.append((name[7:], rest[6:]))
                        continue
            self._read_all(frame + b"\n\n", 0, events)
            if self.overflowed:
                return

    def _read_all(self, data: bytes, position: int, events: list[Item]) -> None:
        while position < len(data):
            position = self._read_event(data, position, events)

    def _read_event(self, data: bytes, position: int, events: list[Item]) -> int:
        """Read lines up to the next blank line or the end. Return the position after it."""
        while (end := data.find(b"\n", position)) >= 0:
            line = data[position:end]
            if self._line:
                line = bytes(self._line + line)
                self._line.clear()
            position = end + 1
            if not line:
                if self._data:
                    if self._has_too_many_objects():
                        return self._overflow(data)
                    events.append((self._name, bytes(self._data[:-1])))
                    self._data.clear()
                self._name = b""
                return position
            if not self._read_line(line):
                return self._overflow(data)
        self._line += data[position:]
        return self._overflow(data) if len(self._line) > self._max else len(data)

    def _has_too_many_objects(self) -> bool:
        data = self._data
        if len(data) <= SMALL_EVENT_BYTES:
            return False
        return data.count(b"{") + data.count(b"[") > MAX_EVENT_OBJECTS

    def _read_line(self, line: bytes) -> bool:
        """Read a line that is not blank. Return False if the line or the event is too long."""
        if len(line) > self._max:
            return False
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data += value.removeprefix(b" ")
            self._data += b"\n"
            return len(self._data) - 1 <= self._max
        if field == b"event":
            self._name = value.removeprefix(b" ")
        elif field == b"error":
            self._name = field
            self._data += value.removeprefix(b" ")
            self._data += b"\n"
            return len(self._data) - 1 <= self._max
        return True

    def _overflow(self, data: bytes) -> int:
        self.overflowed = True
        self._line.clear()
        self._data.clear()
        self._name = b""
        return len(data)
