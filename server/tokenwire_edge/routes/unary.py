"""Streams, token counts, models, usage and the caller: each route is one unary call to the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from google.protobuf.message import Message

from tokenwire.v1 import caller_pb2, chat_pb2, model_pb2, usage_pb2

from ..http.credentials import call_metadata
from ..http.limits import read_body
from ..http.timeouts import timeout_s
from ..relay.events import to_json
from ..relay.response import until_disconnect
from ..requests import (
    check_stream_id,
    message_of_query,
    parse_chat_request,
    parse_without_blocking,
    refuse_query,
)
from .state import channel_of, settings_of

INLINE_BYTES = 16 * 1024
"""Size of a serialized response whose JSON is made without a thread, in about 4 ms."""


class UnaryRoute(NamedTuple):
    """A route, and the method that it calls."""

    verb: str
    path: str
    """`{stream_id}` and `{id}` become the field of the same name in the request."""
    method: str
    request: type[Message]
    response: type[Message]
    field: str = ""
    """Field of the response that is returned. Empty to return the whole response."""
    status: int = 200


UNARY_ROUTES = (
    UnaryRoute(
        "GET",
        "/v1/streams/{stream_id}",
        "tokenwire.v1.ChatService/GetStream",
        chat_pb2.GetStreamRequest,
        chat_pb2.StreamInfo,
    ),
    UnaryRoute(
        "DELETE",
        "/v1/streams/{stream_id}",
        "tokenwire.v1.ChatService/DeleteStream",
        chat_pb2.DeleteStreamRequest,
        chat_pb2.DeleteStreamResponse,
        status=204,
    ),
    UnaryRoute(
        "POST",
        "/v1/streams/{stream_id}/cancel",
        "tokenwire.v1.ChatService/CancelStream",
        chat_pb2.CancelStreamRequest,
        chat_pb2.CancelStreamResponse,
        field="stream",
    ),
    UnaryRoute(
        "POST",
        "/v1/count",
        "tokenwire.v1.ChatService/CountTokens",
        chat_pb2.ChatRequest,
        chat_pb2.CountTokensResponse,
    ),
    UnaryRoute(
        "GET",
        "/v1/models",
        "tokenwire.v1.ModelService/ListModels",
        model_pb2.ListModelsRequest,
        model_pb2.ListModelsResponse,
    ),
    UnaryRoute(
        "GET",
        "/v1/models/{id:path}",
        "tokenwire.v1.ModelService/GetModel",
        model_pb2.GetModelRequest,
        model_pb2.Model,
    ),
    UnaryRoute(
        "GET",
        "/v1/usage/summary",
        "tokenwire.v1.UsageService/GetUsageSummary",
        usage_pb2.GetUsageSummaryRequest,
        usage_pb2.GetUsageSummaryResponse,
    ),
    UnaryRoute(
        "GET",
        "/v1/usage/records",
        "tokenwire.v1.UsageService/ListUsageRecords",
        usage_pb2.ListUsageRecordsRequest,
        usage_pb2.ListUsageRecordsResponse,
    ),
    UnaryRoute(
        "GET",
        "/v1/caller",
        "tokenwire.v1.CallerService/GetCaller",
        caller_pb2.GetCallerRequest,
        caller_pb2.Caller,
    ),
)


def _endpoint(route: UnaryRoute) -> Callable[[Request], Awaitable[Response]]:
    async def call(request: Request) -> Response:
        limit_s = settings_of(request).call_timeout_s
        metadata = call_metadata(request.headers)
        message = await _message(route, request)
        data = await until_disconnect(
            request.receive,
            channel_of(request).unary(
                route.method,
                message.SerializeToString(),
                metadata=metadata,
                timeout_s=timeout_s(request.headers, limit_s),
            ),
        )
        headers = {"cache-control": "no-store"}
        if route.status == 204:
            return Response(status_code=204, headers=headers)
        is_large = len(data) > INLINE_BYTES
        body = await asyncio.to_thread(_json, route, data) if is_large else _json(route, data)
        return Response(body, route.status, headers, "application/json")

    return call


async def _message(route: UnaryRoute, request: Request) -> Message:
    """Return the message that a request's body, path or query contains. Raises Problem."""
    query = request.query_params.multi_items()
    ids: dict[str, str] = request.path_params
    if not ids and route.verb == "GET" and route.request.DESCRIPTOR.fields:
        return message_of_query(query, route.request)
    refuse_query(query)
    if route.request is chat_pb2.ChatRequest:
        return await parse_without_blocking(parse_chat_request, await read_body(request))
    if "stream_id" in ids:
        check_stream_id(ids["stream_id"])
    return route.request(**ids)


def _json(route: UnaryRoute, data: bytes) -> bytes:
    message = route.response.FromString(data)
    if route.field:
        message = getattr(message, route.field)
    return to_json(message)


router = APIRouter()
for each in UNARY_ROUTES:
    router.add_api_route(each.path, _endpoint(each), methods=[each.verb], name=each.method)
