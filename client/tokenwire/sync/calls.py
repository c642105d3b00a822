"""What every call of the client for threads goes through: see `calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.message import Message as ProtoMessage

from tokenwire.v1.caller_pb2_grpc import CallerServiceStub
from tokenwire.v1.chat_pb2_grpc import ChatServiceStub
from tokenwire.v1.model_pb2_grpc import ModelServiceStub
from tokenwire.v1.usage_pb2_grpc import UsageServiceStub

from ..connect.connection import Connection
from ..wire.metadata import NewestAllowances
from .chat_stream import failure

if TYPE_CHECKING:
    from grpc import UnaryUnaryMultiCallable

_RequestT = TypeVar("_RequestT", bound=ProtoMessage)
_ResponseT = TypeVar("_ResponseT", bound=ProtoMessage)


class Calls:
    """One channel, which connects with the first call."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._metadata = connection.metadata
        self._newest = NewestAllowances()
        self._closed = False
        self._channel = connection.channel()
        self._caller = CallerServiceStub(self._channel)
        self._chat = ChatServiceStub(self._channel)
        self._model = ModelServiceStub(self._channel)
        self._usage = UsageServiceStub(self._channel)

    def _response(
        self,
        method: UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout: float | None,
    ) -> _ResponseT:
        self._check_open()
        try:
            response, call = method.with_call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure(error) from error
        self._newest.take(call.initial_metadata() or ())
        return response

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
