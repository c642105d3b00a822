"""What every call of the asyncio client goes through: the channel, the stubs, errors as one tree."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import grpc
from google.protobuf.message import Message as ProtoMessage

from tokenwire.v1.caller_pb2_grpc import CallerServiceStub
from tokenwire.v1.chat_pb2_grpc import ChatServiceStub
from tokenwire.v1.model_pb2_grpc import ModelServiceStub
from tokenwire.v1.usage_pb2_grpc import UsageServiceStub

from ..connect.connection import Connection
from ..errors import Cancelled
from ..wire.metadata import NewestAllowances
from .chat_stream import cancelled_by_us, failure

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryMultiCallable

    from tokenwire.v1.caller_pb2_grpc import CallerServiceAsyncStub
    from tokenwire.v1.chat_pb2_grpc import ChatServiceAsyncStub
    from tokenwire.v1.model_pb2_grpc import ModelServiceAsyncStub
    from tokenwire.v1.usage_pb2_grpc import UsageServiceAsyncStub

_RequestT = TypeVar("_RequestT", bound=ProtoMessage)
_ResponseT = TypeVar("_ResponseT", bound=ProtoMessage)


class AsyncCalls:
    """One channel, made by the first call, of the loop that runs then."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._metadata = connection.metadata
        self._newest = NewestAllowances()
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    @cached_property
    def _caller(self) -> CallerServiceAsyncStub:
        return cast("CallerServiceAsyncStub", CallerServiceStub(self._open_channel()))

    @cached_property
    def _chat(self) -> ChatServiceAsyncStub:
        return cast("ChatServiceAsyncStub", ChatServiceStub(self._open_channel()))

    @cached_property
    def _model(self) -> ModelServiceAsyncStub:
        return cast("ModelServiceAsyncStub", ModelServiceStub(self._open_channel()))

    @cached_property
    def _usage(self) -> UsageServiceAsyncStub:
        return cast("UsageServiceAsyncStub", UsageServiceStub(self._open_channel()))

    def _open_channel(self) -> grpc.aio.Channel:
        self._check_open()
        if self._channel is None:
            # Not in __init__: a channel belongs to the loop that runs when it is made.
            self._channel = self._connection.aio_channel()
        return self._channel

    async def _response(
        self,
        method: UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout_s: float | None,
    ) -> _ResponseT:
        self._check_open()
        return await self._answer(method, request, timeout_s)

    async def _answer(
        self,
        method: UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout_s: float | None,
    ) -> _ResponseT:
        call = method(request, timeout=timeout_s, metadata=self._metadata)
        try:
            response = await call
            self._newest.take(await call.initial_metadata())
        except grpc.aio.AioRpcError as error:
            raise failure(error) from error
        except asyncio.CancelledError:
            if not cancelled_by_us(call):
                raise
            raise Cancelled("the client was closed") from None
        return response

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
