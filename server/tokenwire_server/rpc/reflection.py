"""grpc.reflection.v1alpha.ServerReflection, with bounds on its calls and requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ..errors import InvalidRequest, TokenwireError
from ..request import Violation
from .intake import CallSlots, OpenRequests
from .status import refuse
from .writer import Context, PeerGone, send_within

REFLECTION_SERVICE = reflection.SERVICE_NAME

MAX_REFLECTION_CALLS = 16
"""Reflection calls open at once. The next one gets OVERLOADED."""
MAX_REFLECTION_CALLS_PER_CONNECTION = 4
MAX_IDLE_S = 10.0
"""How long a caller may send no request, or accept no answer. Then INVALID_REQUEST or SLOW_READER."""


class Reflection:
    """Describes services to callers that have no proto files, such as grpcurl."""

    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = reflection.aio.ReflectionServicer(services)
        self._requests = OpenRequests(max_late=MAX_REFLECTION_CALLS, late_s=MAX_IDLE_S)
        self._slots = CallSlots(
            "reflection calls",
            per_owner=MAX_REFLECTION_CALLS_PER_CONNECTION,
            total=MAX_REFLECTION_CALLS,
        )

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the method for a server. It reads its requests itself, with OpenRequests' bounds."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(self.ServerReflectionInfo)
        }
        return grpc.method_handlers_generic_handler(REFLECTION_SERVICE, methods)

    async def ServerReflectionInfo(self, _: object, context: Context) -> None:  # noqa: N802
        """Answer each request of the caller in turn."""
        try:
            with self._slots.slot(context.peer()):
                while (data := await self._requests.receive(context)) is not None:
                    await self._answer(_parsed(data), context)
        except TokenwireError as error:
            refuse(context, error)
        except PeerGone:
            raise asyncio.CancelledError from None

    async def _answer(
        self, request: reflection_pb2.ServerReflectionRequest, context: Context
    ) -> None:
        # It is typed as a coroutine, but it is an asynchronous generator.
        answering = cast("Any", self._servicer.ServerReflectionInfo)(_only(request), context)
        answers: AsyncGenerator[reflection_pb2.ServerReflectionResponse, None] = answering
        async with aclosing(answers):
            async for answer in answers:
                await send_within(context, answer.SerializeToString(), MAX_IDLE_S)


async def _only(
    request: reflection_pb2.ServerReflectionRequest,
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    yield request


def _parsed(data: bytes) -> reflection_pb2.ServerReflectionRequest:
    try:
        return reflection_pb2.ServerReflectionRequest.FromString(data)
    except DecodeError:
        raise InvalidRequest([Violation("", "is not a ServerReflectionRequest")]) from None
