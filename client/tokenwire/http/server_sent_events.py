"""The events of a stream as server-sent events (`text/event-stream` of the HTML standard). Pure."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

import grpc
from google.protobuf import json_format

from tokenwire.v1.event_pb2 import TokenEvent

from ..errors import InvalidRequest, TokenwireError, Violation
from .problems import problem_of

MEDIA_TYPE = "text/event-stream"
HEADERS = {
    "content-type": MEDIA_TYPE,
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # otherwise nginx buffers the events
}
"""The headers of a response with server-sent events."""
KEEP_ALIVE = b": ping\n"
"""A comment. A blank line after it would be an event for some readers."""

_EVENT_ID = re.compile(r"([A-Za-z0-9_-]{1,64}):([0-9]{1,18})")


class Position(NamedTuple):
    """A position in a stream: the arguments of `client.resume`."""

    stream_id: str
    after_sequence: int


def encode_event(event: TokenEvent, stream_id: str) -> bytes:
    """Return an event: its id is its position, its name the field of TokenEvent, its data protobuf's JSON.

    A heartbeat becomes a comment. An event of an unknown type has only an id.
    """
    kind = event.WhichOneof("event")
    if kind == "heartbeat":
        return KEEP_ALIVE
    position = f"id: {stream_id}:{event.sequence}\n"
    if kind is None:
        return f"{position}\n".encode()
    data = json.dumps(json_format.MessageToDict(event), ensure_ascii=False, separators=(",", ":"))
    return f"{position}event: {kind}\ndata: {data}\n\n".encode()


def encode_error(error: TokenwireError) -> bytes:
    """Return the event `error` that ends a response that has begun. Its data is `problem_of(error)`."""
    data = json.dumps(problem_of(error), ensure_ascii=False, separators=(",", ":"))
    return f"event: error\ndata: {data}\n\n".encode()


def position_of(last_event_id: str | None) -> Position | None:
    """Return the position in the header `Last-Event-ID` of a browser that reconnects. None: there is none.

    Raises:
        InvalidRequest: the header is not the id of an event that was sent.
    """
    if not last_event_id:
        return None
    found = _EVENT_ID.fullmatch(last_event_id)
    if found is None:
        problem = "it must be the id of an event of a stream"
        raise InvalidRequest(
            f"Last-Event-ID: {problem}",
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason="INVALID_REQUEST",
            violations=[Violation("Last-Event-ID", problem)],
        )
    return Position(found[1], int(found[2]))
