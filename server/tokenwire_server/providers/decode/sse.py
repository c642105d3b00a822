"""Server-Sent Events, framed from bytes. https://html.spec.whatwg.org/multipage/server-sent-events.html

This is the way of every token: bytes stay bytes, and a feed that begins and ends between two events
is split without a look at its lines. Only what a feed leaves unfinished is kept.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 4 * 2**20
MAX_EVENT_OBJECTS = 64 * 1024
"""Most opening braces and brackets in one event. An event is decoded in one step: 4 MiB of text take 5 ms,
4 MiB of empty JSON objects half a second, and this many objects 30 ms, or 60 ms if the event also contains
half a character. The Responses API repeats the tools of a request in its first two events and the last one:
512 tools with 65,000 schema nodes have 33,300 opening braces."""
SMALL_EVENT_BYTES = 2 * MAX_EVENT_OBJECTS
"""Events up to this size are too short for more objects, so theirs are not counted."""

_BOM = b"\xef\xbb\xbf"


class SSEFramer:
    """Bytes of a `text/event-stream` in, events out, wherever the network cut them.

    An event is `(name, data)`: the name is empty where the stream gave none, `data` is what its
    `data` lines said, joined by line feeds. Comments, `id` and `retry` are dropped, and so is an
    event without a `data` line. Bytes are not checked to be UTF-8.

    `max_event_bytes` bounds each line and each event's data, and so what is kept between feeds. At
    the first longer one, or one with more than `MAX_EVENT_OBJECTS`, `overflowed` is set, and no more
    events are returned: the stream is unusable.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_between_events",
        "_data",
        "_line",
        "_max",
        "_name",
        "_small",
        "overflowed",
    )

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.overflowed = False
        self._max = max_event_bytes
        self._small = min(max_event_bytes, SMALL_EVENT_BYTES)
        self._at_start = True
        self._between_events = False
        self._after_cr = False
        self._line = bytearray()
        self._data = bytearray()  # the specification's data buffer: each line with its line feed
        self._name = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Take the next bytes; return the events they complete, in order."""
        if self._between_events and data.endswith(b"\n\n") and b"\r" not in data:
            # One whole event, as it comes when nothing is late.
            line = data.find(b"\n") + 1 if data.startswith(b"event: ") else 0
            if (
                data.startswith(b"data: ", line)
                and data.find(b"\n", line) == len(data) - 2
                and len(data) <= self._small
            ):
                return [(data[7 : line - 1] if line else b"", data[line + 6 : -2])]
        events = [] if self.overflowed else self._feed(data)
        self._between_events = not (
            self._line
            or self._data
            or self._name
            or self._after_cr
            or self._at_start
            or self.overflowed
        )
        return events

    def _feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        if self._at_start:
            data = self._skip_bom(data)
        if self._after_cr or b"\r" in data:
            data = self._normalise(data)
        events: list[tuple[bytes, bytes]] = []
        position = 0
        if self._line or self._data or self._name:
            position = self._read_event(data, 0, events)
        end = data.rfind(b"\n\n", position)
        if end >= 0 and not self.overflowed:
            self._split(data[position:end], events)
            position = end + 2
        if not self.overflowed:
            self._read_all(data, position, events)
        return events

    def eof(self) -> list[tuple[bytes, bytes]]:
        """The stream ended: return the event that its last blank line would have completed, if any.

        The specification drops such an event, as the SDKs do; but servers exist whose last frame
        lacks its blank line. Its last line may be cut: whoever reads it must be able to tell.
        """
        if self.overflowed:
            return []
        events: list[tuple[bytes, bytes]] = []
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
        """Make all line ends line feeds. A carriage return ends its line at once."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if data.endswith(b"\r"):
            self._after_cr = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _split(self, data: bytes, events: list[tuple[bytes, bytes]]) -> None:
        """Split whole events. Nothing is kept between two of them."""
        max_bytes = self._small
        for frame in data.split(b"\n\n"):
            if len(frame) <= max_bytes:
                if b"\n" not in frame:
                    if frame.startswith(b"data: "):
                        events.append((b"", frame[6:]))
                        continue
                    if frame.startswith(b":"):
                        continue
                elif frame.startswith(b"event: "):
                    name, _, rest = frame.partition(b"\n")
                    if rest.startswith(b"data: ") and b"\n" not in rest:
                        events.append((name[7:], rest[6:]))
                        continue
            self._read_all(frame + b"\n\n", 0, events)
            if self.overflowed:
                return

    def _read_all(self, data: bytes, position: int, events: list[tuple[bytes, bytes]]) -> None:
        while position < len(data):
            position = self._read_event(data, position, events)

    def _read_event(self, data: bytes, position: int, events: list[tuple[bytes, bytes]]) -> int:
        """Read lines to the next blank one, or to the end; return the position after it."""
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
        """Take a line that is not blank. False: it is, or makes the event, too long."""
        if len(line) > self._max:
            return False
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data += value.removeprefix(b" ")
            self._data += b"\n"
            return len(self._data) - 1 <= self._max
        if field == b"event":
            self._name = value.removeprefix(b" ")
        return True

    def _overflow(self, data: bytes) -> int:
        self.overflowed = True
        self._line.clear()
        self._data.clear()
        self._name = b""
        return len(data)
