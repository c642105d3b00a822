"""The formats in which a stream's events are written to an HTTP response."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import msgspec

from ..problems import Problem
from .events import EncodedEvent


class Format(Protocol):
    """How events become bytes. Stateless, so one object serves all responses."""

    media_type: str
    is_cut_off_by_errors: bool
    """Whether a stream that fails ends without its last chunk, because the format cannot contain an error."""

    def event(self, event: EncodedEvent) -> bytes:
        """Return the bytes of an event, or b"" if the format leaves it out."""

    def keep_alive(self, heartbeat: EncodedEvent) -> bytes:
        """Return the bytes of a heartbeat that the caller did not request."""

    def error(self, problem: Problem) -> bytes:
        """Return the bytes of the error that ends the response."""


class ServerSentEvents:
    """`text/event-stream`, as in the HTML standard. An event's id is its sequence."""

    media_type = "text/event-stream"
    is_cut_off_by_errors = False

    def event(self, event: EncodedEvent) -> bytes:
        sequence, kind, data = event
        if not kind:
            return b"id: %d\n\n" % sequence  # counts the sequence, and dispatches nothing
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (sequence, kind.encode(), data)

    def keep_alive(self, heartbeat: EncodedEvent) -> bytes:  # noqa: ARG002  # the protocol's
        return b": ping\n"  # a blank line after it would be an event for httpx-sse

    def error(self, problem: Problem) -> bytes:
        return b"event: error\ndata: %b\n\n" % problem.body()


class JsonLines:
    """`application/x-ndjson`: one TokenEvent a line. An error is a line `{"error": {...}}`."""

    media_type = "application/x-ndjson"
    is_cut_off_by_errors = False

    def event(self, event: EncodedEvent) -> bytes:
        return event.data + b"\n"

    def keep_alive(self, heartbeat: EncodedEvent) -> bytes:
        return heartbeat.data + b"\n"

    def error(self, problem: Problem) -> bytes:
        return b'{"error":%b}\n' % problem.body()


class PlainText:
    """`text/plain`: the answer's text alone."""

    media_type = "text/plain; charset=utf-8"
    is_cut_off_by_errors = True

    def event(self, event: EncodedEvent) -> bytes:
        if event.kind != "text":
            return b""
        text: str = msgspec.json.decode(event.data)["text"].get("text", "")
        return text.encode()

    def keep_alive(self, heartbeat: EncodedEvent) -> bytes:  # noqa: ARG002  # the protocol's
        return b""

    def error(self, problem: Problem) -> bytes:  # noqa: ARG002  # the protocol's
        return b""


_FORMATS: tuple[tuple[str, Format], ...] = (  # the first one is preferred
    ("text/event-stream", ServerSentEvents()),
    ("application/x-ndjson", JsonLines()),
    ("text/plain", PlainText()),
)


def negotiate(accept: str) -> Format:
    """Return the format for an `Accept` header. Raises Problem if it allows none of them."""
    ranges: dict[str, float] = {}
    for item in accept.split(",") if accept.strip() else ["*/*"]:
        media_range, *parameters = (part.strip().lower() for part in item.split(";"))
        quality_text = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        with suppress(ValueError):
            ranges[media_range] = float(quality_text)
    best: tuple[float, Format] | None = None
    for name, form in _FORMATS:
        kind = name.split("/")[0] + "/*"
        quality = next((ranges[each] for each in (name, kind, "*/*") if each in ranges), 0.0)
        if quality > 0 and (best is None or quality > best[0]):
            best = quality, form
    if best is None:
        names = ", ".join(name for name, _ in _FORMATS)
        raise Problem(
            406, "NOT_ACCEPTABLE", f"Accept is {accept[:80]!r}: it must allow one of {names}"
        )
    return best[1]
