"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack, cast

import grpc
from google.protobuf.message import Message as ProtoMessage

from tokenwire.v1.chat_pb2 import ChatRequest, ChatResponse, Message
from tokenwire.v1.chat_pb2_grpc import ChatServiceStub
from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire.v1.model_pb2 import GetModelRequest, ListModelsRequest, Model
from tokenwire.v1.model_pb2_grpc import ModelServiceStub

from .channel import LOOKUP_TIMEOUT_S, ChannelOptions, channel_options, resolve_target
from .errors import Cancelled, IncompleteStream, TokenwireError, from_status
from .messages import MessageLike
from .request import RequestFields, build_request
from .stream import Answer, stream_id_in

if TYPE_CHECKING:
    from tokenwire.v1.chat_pb2_grpc import ChatServiceAsyncStub
    from tokenwire.v1.model_pb2_grpc import ModelServiceAsyncStub

_RequestT = TypeVar("_RequestT", bound=ProtoMessage)
_ResponseT = TypeVar("_ResponseT", bound=ProtoMessage)


class AsyncChatStream:
    """One stream, read from the server as the model speaks.

        async with client.chat_stream("openai/demo", "Hello") as stream:
            async for piece in stream.text:
                print(piece, end="", flush=True)

    Entering the block starts the call and waits until the server has accepted it: `stream_id` is
    known inside, and a refusal is raised there. Leaving the block ends the call, however it is
    left; the server then closes the provider's connection. Iterating gives every event in order,
    those of a type unknown here included (`event.WhichOneof("event") is None`), and ends after
    `finished`; any other end raises a TokenwireError. Events, `text` and `final()` read the same
    stream: what one has taken, the others do not see again. For one reader at a time.

    Cancelling the task that reads cancels the call, and `asyncio.CancelledError` passes through.
    """

    def __init__(
        self, start: Callable[[], grpc.aio.UnaryStreamCall[ChatRequest, TokenEvent]]
    ) -> None:
        self._start = start
        self._call: grpc.aio.UnaryStreamCall[ChatRequest, TokenEvent] | None = None
        self._answer = Answer()
        self._first: TokenEvent | None = None

    @property
    def stream_id(self) -> str:
        """Id of the stream at the server, for its logs and usage records."""
        return self._answer.stream_id

    @property
    def last_sequence(self) -> int:
        """Sequence of the last event read. 0: none yet."""
        return self._answer.last_sequence

    @property
    def message(self) -> Message:
        """The assistant's message as far as it was read: see `Answer.message`."""
        return self._answer.message()

    @property
    def text(self) -> AsyncIterator[str]:
        """The answer's text alone, piece by piece as it comes."""
        return _TextPieces(self)

    async def final(self) -> ChatResponse:
        """Read to the end; the whole answer, what was read before included.

        Raises:
            TokenwireError: the stream did not end with `finished`. `message` has what came.
        """
        async for _ in self:
            pass
        return self._answer.response()

    def cancel(self) -> None:
        """End the call at once. Whoever reads it gets `Cancelled`. After its end: no effect."""
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        if self._call is not None:
            raise RuntimeError("a stream is entered once; ask the client for another")
        self._call = self._start()
        try:
            metadata = await self._call.initial_metadata()
            self._answer.stream_id = stream_id_in(metadata)
            if not self._answer.stream_id:
                # Refusals have no initial metadata: reading on raises them.
                self._first = await self._read()
        except BaseException as error:
            self._call.cancel()
            if isinstance(error, asyncio.CancelledError) and _cancelled_by_us(self._call):
                raise Cancelled("the call was cancelled before it began") from None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenEvent:
        event, self._first = self._first, None
        if event is None:
            event = await self._read()
        if event is None:
            raise StopAsyncIteration
        self._answer.add(event)
        return event

    async def _read(self) -> TokenEvent | None:
        """The next event, or None after a deliberate end."""
        if self._call is None:
            raise RuntimeError("a stream is read inside `async with`")
        try:
            event = await self._call.read()
        except grpc.aio.AioRpcError as error:
            if self._answer.finished is not None:
                return None  # the answer is complete, whatever befell the connection after it
            raise _failure(error, self._answer) from error
        except asyncio.CancelledError:
            if not _cancelled_by_us(self._call):
                raise
            raise Cancelled(
                "the call was cancelled here",
                stream_id=self.stream_id,
                last_sequence=self.last_sequence,
            ) from None
        if isinstance(event, TokenEvent):
            return event
        if self._answer.finished is None:
            raise IncompleteStream(
                "the stream ended without saying how",
                stream_id=self.stream_id,
                last_sequence=self.last_sequence,
            )
        return None


class _TextPieces:
    """A plain iterator and no generator: one left half-way has nothing to be closed."""

    def __init__(self, stream: AsyncChatStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        async for event in self._stream:
            if event.WhichOneof("event") == "text":
                return event.text.text
        raise StopAsyncIteration


class AsyncClient:
    """A client of one Tokenwire server, for one event loop.

        async with tokenwire.AsyncClient() as client:
            response = await client.chat("openai/demo", "Hello")

    `target` is a gRPC name (`host:port`); default: TOKENWIRE_TARGET, or 127.0.0.1:50051.
    `options` are gRPC channel arguments, over those of `channel.channel_options`. The connection is
    made by the first call, kept, and shared by all calls; `close()`, or leaving the block, ends it
    and the calls still open on it.

    `timeout` of a call is its gRPC deadline in seconds: it bounds the whole generation, reaches the
    provider, and ends as DeadlineExceeded. Without one, the server's limits bound a generation, and
    keepalive finds a server that is gone.
    """

    def __init__(self, target: str | None = None, *, options: ChannelOptions = ()) -> None:
        self.target = resolve_target(target)
        self._options = options
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    def chat_stream(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> AsyncChatStream:
        """Generate an answer and read it as it comes. Nothing is sent before the block is entered.

        `messages` is what the user says, a message, or a list of these: see `MessageLike`. A whole
        ChatRequest can stand in place of model, messages and fields.

        Raises:
            TypeError, ValueError: the arguments do not make a ChatRequest.
        """
        request = build_request(model, messages, **fields)

        def start() -> grpc.aio.UnaryStreamCall[ChatRequest, TokenEvent]:
            self._check_open()
            return self._chat.ChatStream(request, timeout=timeout)

        return AsyncChatStream(start)

    async def chat(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # a gRPC deadline: the server sees it
        **fields: Unpack[RequestFields],
    ) -> ChatResponse:
        """The same request, answered whole. Cancelling the awaiting task cancels the call.

        Raises:
            TokenwireError: there is no answer.
            TypeError, ValueError: the arguments do not make a ChatRequest.
        """
        request = build_request(model, messages, **fields)
        self._check_open()
        return await _response(self._chat.Chat(request, timeout=timeout))

    async def list_models(
        self,
        *,
        timeout: float | None = LOOKUP_TIMEOUT_S,  # noqa: ASYNC109  # as above
    ) -> list[Model]:
        """The models and aliases that the server's configuration names, by id."""
        self._check_open()
        response = await _response(self._model.ListModels(ListModelsRequest(), timeout=timeout))
        return list(response.models)

    async def get_model(
        self,
        model: str,
        *,
        timeout: float | None = LOOKUP_TIMEOUT_S,  # noqa: ASYNC109  # as above
    ) -> Model:
        """What the server knows of one model: a listed one, an alias, or any `provider/model`.

        Raises:
            UnknownModel: no such provider or alias.
        """
        self._check_open()
        return await _response(self._model.GetModel(GetModelRequest(id=model), timeout=timeout))

    async def close(self) -> None:
        """End the connection and the calls still open on it, which get `Cancelled`. Idempotent."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @cached_property
    def _chat(self) -> ChatServiceAsyncStub:
        return cast("ChatServiceAsyncStub", ChatServiceStub(self._connection()))

    @cached_property
    def _model(self) -> ModelServiceAsyncStub:
        return cast("ModelServiceAsyncStub", ModelServiceStub(self._connection()))

    def _connection(self) -> grpc.aio.Channel:
        if self._channel is None:
            # Not in __init__: a channel belongs to the loop that runs when it is made.
            self._channel = grpc.aio.insecure_channel(
                self.target, options=channel_options(self._options)
            )
        return self._channel

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")


async def _response(call: grpc.aio.UnaryUnaryCall[_RequestT, _ResponseT]) -> _ResponseT:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise _failure(error, Answer()) from error
    except asyncio.CancelledError:
        if not _cancelled_by_us(call):
            raise
        raise Cancelled("the client was closed") from None


def _failure(error: grpc.aio.AioRpcError, answer: Answer) -> TokenwireError:
    return from_status(
        error.code(),
        error.details() or "",
        error.trailing_metadata() or (),
        stream_id=answer.stream_id or stream_id_in(error.initial_metadata() or ()),
        last_sequence=answer.last_sequence,
    )


def _cancelled_by_us(call: grpc.aio.Call) -> bool:
    """Whether a CancelledError tells of the call, and not of a cancelled task.

    gRPC raises the same one for both. A task that is being cancelled must be left to it.
    """
    task = asyncio.current_task()
    return call.cancelled() and not (task is not None and task.cancelling())
