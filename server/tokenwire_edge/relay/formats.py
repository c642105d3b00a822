"""The formats in which a stream's events are written to an HTTP response."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ..problems import Problem
from .events import EncodedEvent


class Format(Protocol):
    """How events become bytes. Stateless, so one object serves all responses."""

    media_type: str

    def event(self, event: EncodedEvent) -> bytes:
        """Return the bytes of an event. Empty if the format has none for it."""

    def keep_alive(self, event: EncodedEvent) -> bytes:
        """Return the bytes of a heartbeat that the caller did not ask for."""

    def error(self, problem: Problem) -> bytes:
        """Return the bytes of the error that ends the response."""


class ServerSentEvents:
    """`text/event-stream`, as in the HTML standard. An event's id is its sequence."""

    media_type = "text/event-stream"

    def event(self, event: EncodedEvent) -> bytes:
        sequence, kind, data = event
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (sequence, kind.encode(), data)

    def keep_alive(self, event: EncodedEvent) -> bytes:
        return b": ping\n\n"

    def error(self, problem: Problem) -> bytes:
        return b"event: error\ndata: %b\n\n" % problem.body()


class JsonLines:
    """`application/x-ndjson`: one TokenEvent a line. An error is a line `{"error": {...}}`."""

    media_type = "application/x-ndjson"

    def event(self, event: EncodedEvent) -> bytes:
        return event.data + b"\n"

    def keep_alive(self, event: EncodedEvent) -> bytes:
        return event.data + b"\n"

    def error(self, problem: Problem) -> bytes:
        return b'{"error":%b}\n' % problem.body()


class PlainText:
    """`text/plain`: the answer's text alone. An error cuts the response off: see `RelayResponse`."""

    media_type = "text/plain; charset=utf-8"

    def event(self, event: EncodedEvent) -> bytes:
        if event.kind != "text":
            return b""
        text: str = msgspec.json.decode(event.data)["text"].get("text", "")
        return text.encode()

    def keep_alive(self, event: EncodedEvent) -> bytes:
        return b""

    def error(self, problem: Problem) -> bytes:
        return b""
