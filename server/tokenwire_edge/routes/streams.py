"""Streams that outlive the request that starts them: start, tickets, and events from any position.

EventSource reconnects by itself after a response with status 200 has ended, with the header `Last-Event-ID`.
Any other status stops it. So a reader at the end of a finished stream gets 204, and a reader at the end of a
failed one gets its error as a status.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tokenwire.v1.chat_pb2 import (
    ON_DISCONNECT_CANCEL,
    ON_DISCONNECT_CONTINUE,
    ChatRequest,
    DeliveryOptions,
    GetStreamRequest,
    ResumeStreamRequest,
)
from tokenwire.v1.event_pb2 import TokenEvent

from ..grpc_client.call import Call
from ..http.credentials import CallMetadata, authorization_metadata, call_metadata
from ..http.limits import read_body
from ..http.timeouts import timeout_s
from ..problems import Problem
from ..relay.formats import ServerSentEvents, negotiate
from ..relay.response import RelayResponse, until_disconnect
from ..requests import check_stream_id, parse_chat_request, parse_without_blocking, refuse_query
from ..requests.violations import invalid_request
from ..tickets import Tickets
from .chat import CHAT_STREAM
from .state import channel_of, settings_of

GET_STREAM = "tokenwire.v1.ChatService/GetStream"
RESUME_STREAM = "tokenwire.v1.ChatService/ResumeStream"

RETRY_FIELD = b"retry: 1000\n"
"""Milliseconds until EventSource reconnects. Streams linger for longer by default."""

_PARAMETERS = ("after", "ticket")
_MAX_SEQUENCE = 2**63 - 1
_SEQUENCE = re.compile(r"[0-9]{1,19}")

router = APIRouter(prefix="/v1")


@router.post("/chat/streams")
async def start_stream(request: Request) -> Response:
    """Start a generation, and return where its events can be read.

    The stream continues without a reader for `retention.linger`, by default the edge's `linger_s`.
    """
    settings = settings_of(request)
    metadata = call_metadata(request.headers)
    refuse_query(request.query_params.multi_items())
    chat = await parse_without_blocking(parse_chat_request, await read_body(request))
    _continue_without_reader(chat, settings.linger_s)
    call = channel_of(request).stream(
        CHAT_STREAM,
        chat.SerializeToString(),
        metadata=metadata,
        timeout_s=timeout_s(request.headers, settings.call_timeout_s),
    )
    stream_id = await until_disconnect(request.receive, _started(call))
    content = _readable(_tickets_of(request), stream_id, metadata)
    return _json(201, content, location=f"/v1/streams/{stream_id}")


@router.post("/streams/{stream_id}/ticket")
async def make_ticket(request: Request, stream_id: str) -> Response:
    """Return a new ticket for a stream of the caller."""
    metadata = call_metadata(request.headers)
    refuse_query(request.query_params.multi_items())
    call = channel_of(request).unary(
        GET_STREAM,
        GetStreamRequest(stream_id=check_stream_id(stream_id)).SerializeToString(),
        metadata=metadata,
        timeout_s=timeout_s(request.headers, settings_of(request).call_timeout_s),
    )
    await until_disconnect(request.receive, call)
    return _json(200, _readable(_tickets_of(request), stream_id, metadata))


@router.get("/streams/{stream_id}/events")
async def read_events(request: Request, stream_id: str) -> Response:
    """Read a stream after a position: its past events, then live ones.

    The position is the header `Last-Event-ID`, else the parameter `after`, else the beginning. A `ticket`
    takes precedence over the header `Authorization`. At the end of a stream that has finished, the status is
    204. At the end of one that has failed, it is the status of its error.
    """
    settings = settings_of(request)
    form = negotiate(",".join(request.headers.getlist("accept")))
    parameters = _parameters(request)
    after_sequence = _after_sequence(request.headers.get("last-event-id"), parameters.get("after"))
    ticket = parameters.get("ticket")
    if ticket is None:
        metadata = call_metadata(request.headers)
    else:
        metadata = authorization_metadata(_tickets_of(request).read(ticket, stream_id))
    resume = ResumeStreamRequest(
        stream_id=check_stream_id(stream_id),
        after_sequence=after_sequence,
        delivery=DeliveryOptions(heartbeat_interval=_duration(settings.heartbeat_interval_s)),
    )
    call = channel_of(request).stream(
        RESUME_STREAM,
        resume.SerializeToString(),
        metadata=metadata,
        timeout_s=timeout_s(request.headers, settings.stream_timeout_s),
    )
    is_event_stream = isinstance(form, ServerSentEvents)
    return RelayResponse(
        call, form, preamble=RETRY_FIELD if is_event_stream else b"", is_empty_without_events=True
    )


def _continue_without_reader(chat: ChatRequest, linger_s: float) -> None:
    """Let the stream outlive the call that starts it. Raises Problem if the request forbids that."""
    retention = chat.retention
    if retention.on_disconnect == ON_DISCONNECT_CANCEL:
        what = "must not be CANCEL: the stream has no reader at first"
        raise invalid_request([("retention.on_disconnect", what)])
    retention.on_disconnect = ON_DISCONNECT_CONTINUE
    if not retention.HasField("linger"):
        retention.linger.CopyFrom(_duration(linger_s))


async def _started(call: Call) -> str:
    """Start a stream and leave it. Return its id."""
    async with call:
        for message in await call.read():
            if stream_id := TokenEvent.FromString(message).started.stream_id:
                return stream_id
    raise Problem(502, "INTERNAL", "the server sent no `started` event")


def _readable(tickets: Tickets, stream_id: str, metadata: CallMetadata) -> dict[str, Any]:
    """Return how EventSource can read a stream."""
    ticket = tickets.issue(stream_id, dict(metadata).get("authorization", ""))
    expire_time = Timestamp(seconds=int(ticket.expire_time))
    return {
        "streamId": stream_id,
        "eventsUrl": f"/v1/streams/{stream_id}/events?ticket={ticket.text}",
        "ticket": ticket.text,
        "ticketExpireTime": expire_time.ToJsonString(),
    }


def _parameters(request: Request) -> dict[str, str]:
    """Return the parameters of the query. Raises Problem if one is unknown or given more than once."""
    items = request.query_params.multi_items()
    refuse_query(item for item in items if item[0] not in _PARAMETERS)
    parameters = dict(items)
    repeated = [name for name in parameters if [each for each, _ in items].count(name) > 1]
    if repeated:
        raise invalid_request([(name, "is given more than once") for name in repeated])
    return parameters


def _after_sequence(last_event_id: str | None, after: str | None) -> int:
    """Return the position to read after. Raises Problem if it is not a sequence."""
    field, text = ("Last-Event-ID", last_event_id) if last_event_id else ("after", after)
    if text is None:
        return 0
    if not _SEQUENCE.fullmatch(text) or int(text) > _MAX_SEQUENCE:
        what = f"must be a sequence: a whole number from 0 to {_MAX_SEQUENCE}"
        raise invalid_request([(field, what)])
    return int(text)


def _tickets_of(request: Request) -> Tickets:
    tickets: Tickets = request.app.state.tickets
    return tickets


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(int(seconds * 1000))
    return duration


def _json(status: int, content: dict[str, Any], **headers: str) -> Response:
    """Return a response that no cache keeps: it contains a ticket."""
    return Response(
        msgspec.json.encode(content),
        status,
        {"cache-control": "no-store"} | headers,
        media_type="application/json",
    )
