"""`POST /v1/chat/stream` and `POST /v1/chat`: an answer as a stream, or whole."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from google.protobuf.duration_pb2 import Duration

from tokenwire.v1.chat_pb2 import ChatRequest, ChatResponse

from ..http.credentials import call_metadata
from ..http.limits import read_body
from ..http.timeouts import timeout_s
from ..relay.events import to_json
from ..relay.formats import negotiate
from ..relay.response import RelayResponse, until_disconnect
from ..requests import parse_chat_request, parse_without_blocking, refuse_query
from .state import channel_of, settings_of

CHAT = "tokenwire.v1.ChatService/Chat"
CHAT_STREAM = "tokenwire.v1.ChatService/ChatStream"

router = APIRouter(prefix="/v1")


@router.post("/chat/stream")
async def stream_chat(request: Request) -> Response:
    """Start a generation and read its events."""
    refuse_query(request.query_params.multi_items())
    settings = settings_of(request)
    form = negotiate(",".join(request.headers.getlist("accept")))
    chat = await parse_without_blocking(parse_chat_request, await read_body(request))
    shows_heartbeats = limit_heartbeats(chat, settings.heartbeat_interval_s)
    call = channel_of(request).stream(
        CHAT_STREAM,
        chat.SerializeToString(),
        metadata=call_metadata(request.headers),
        timeout_s=timeout_s(request.headers, settings.stream_timeout_s),
    )
    return RelayResponse(call, form, shows_heartbeats=shows_heartbeats)


@router.post("/chat")
async def chat(request: Request) -> Response:
    """Generate an answer and return it whole."""
    refuse_query(request.query_params.multi_items())
    body = await parse_without_blocking(parse_chat_request, await read_body(request))
    answer = await until_disconnect(
        request.receive,
        channel_of(request).unary(
            CHAT,
            body.SerializeToString(),
            metadata=call_metadata(request.headers),
            timeout_s=timeout_s(request.headers, settings_of(request).stream_timeout_s),
        ),
    )
    return Response(
        to_json(ChatResponse.FromString(answer)),
        headers={"cache-control": "no-store"},
        media_type="application/json",
    )


def limit_heartbeats(chat: ChatRequest, limit_s: float) -> bool:
    """Let the server send a heartbeat at least every `limit_s` seconds: proxies close silent responses.

    Return whether the caller requested heartbeats.
    """
    is_requested = chat.delivery.HasField("heartbeat_interval")
    interval = chat.delivery.heartbeat_interval
    if not is_requested or interval.ToTimedelta().total_seconds() > limit_s:
        limit = Duration()
        limit.FromMilliseconds(int(limit_s * 1000))
        interval.CopyFrom(limit)
    return is_requested
