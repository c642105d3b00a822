"""The client for code without an event loop: gRPC's own synchronous stack, not a loop in hiding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message as ProtoMessage

from tokenwire.v1.chat_pb2 import ChatRequest, ChatResponse, Message
from tokenwire.v1.chat_pb2_grpc import ChatServiceStub
from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire.v1.model_pb2 import GetModelRequest, ListModelsRequest, Model
from tokenwire.v1.model_pb2_grpc import ModelServiceStub

from .channel import LOOKUP_TIMEOUT_S, ChannelOptions, channel_options, resolve_target
from .errors import IncompleteStream, TokenwireError, from_status
from .messages import MessageLike
from .request import RequestFields, build_request
from .stream import Answer, stream_id_in

if TYPE_CHECKING:
    from grpc import UnaryUnaryMultiCallable

_RequestT = TypeVar("_RequestT", bound=ProtoMessage)
_ResponseT = TypeVar("_ResponseT", bound=ProtoMessage)


class _StreamCall(Protocol):
    """What gRPC returns for a call whose responses are a stream."""

    def __next__(self) -> TokenEvent: ...
    def cancel(self) -> bool: ...
    def initial_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


class ChatStream:
    """One stream, read from the server as the model speaks.

        with client.chat_stream("openai/demo", "Hello") as stream:
            for piece in stream.text:
                print(piece, end="", flush=True)

    It behaves as `AsyncChatStream` does: entering waits for the server's acceptance, leaving ends
    the call. `cancel()` may be called from another thread.
    """

    def __init__(self, start: Callable[[], _StreamCall]) -> None:
        self._start = start
        self._call: _StreamCall | None = None
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
    def text(self) -> Iterator[str]:
        """The answer's text alone, piece by piece as it comes."""
        return (event.text.text for event in self if event.WhichOneof("event") == "text")

    def final(self) -> ChatResponse:
        """Read to the end; the whole answer, what was read before included.

        Raises:
            TokenwireError: the stream did not end with `finished`. `message` has what came.
        """
        for _ in self:
            pass
        return self._answer.response()

    def cancel(self) -> None:
        """End the call at once. Whoever reads it gets `Cancelled`. After its end: no effect."""
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        if self._call is not None:
            raise RuntimeError("a stream is entered once; ask the client for another")
        self._call = self._start()
        try:
            self._answer.stream_id = stream_id_in(self._call.initial_metadata() or ())
            if not self._answer.stream_id:
                # Refusals have no initial metadata: reading on raises them.
                self._first = self._read()
        except BaseException:
            self._call.cancel()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenEvent:
        event, self._first = self._first, None
        if event is None:
            event = self._read()
        if event is None:
            raise StopIteration
        self._answer.add(event)
        return event

    def _read(self) -> TokenEvent | None:
        """The next event, or None after a deliberate end."""
        if self._call is None:
            raise RuntimeError("a stream is read inside `with`")
        try:
            return next(self._call)
        except StopIteration:
            if self._answer.finished is not None:
                return None
            raise IncompleteStream(
                "the stream ended without saying how",
                stream_id=self.stream_id,
                last_sequence=self.last_sequence,
            ) from None
        except grpc.RpcError as error:
            if self._answer.finished is not None:
                return None  # the answer is complete, whatever befell the connection after it
            raise _failure(error, self._answer) from error


class Client:
    """A client of one Tokenwire server, for threads.

        with tokenwire.Client() as client:
            response = client.chat("openai/demo", "Hello")

    Arguments and errors are those of `AsyncClient`. Threads may share it. Closing it from another
    thread ends the calls still open with `Cancelled`.
    """

    def __init__(self, target: str | None = None, *, options: ChannelOptions = ()) -> None:
        self.target = resolve_target(target)
        self._channel = grpc.insecure_channel(self.target, options=channel_options(options))
        self._closed = False
        self._chat = ChatServiceStub(self._channel)
        self._model = ModelServiceStub(self._channel)

    def chat_stream(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> ChatStream:
        """Generate an answer and read it as it comes: see `AsyncClient.chat_stream`."""
        request = build_request(model, messages, **fields)

        def start() -> _StreamCall:
            self._check_open()
            return self._chat.ChatStream(request, timeout=timeout)

        return ChatStream(start)

    def chat(
        self,
        model: str | ChatRequest,
        messages: MessageLike | Iterable[MessageLike] | None = None,
        *,
        timeout: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> ChatResponse:
        """The same request, answered whole: see `AsyncClient.chat`."""
        return self._response(self._chat.Chat, build_request(model, messages, **fields), timeout)

    def list_models(self, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> list[Model]:
        """The models and aliases that the server's configuration names, by id."""
        return list(self._response(self._model.ListModels, ListModelsRequest(), timeout).models)

    def get_model(self, model: str, *, timeout: float | None = LOOKUP_TIMEOUT_S) -> Model:
        """What the server knows of one model: see `AsyncClient.get_model`."""
        return self._response(self._model.GetModel, GetModelRequest(id=model), timeout)

    def close(self) -> None:
        """End the connection and the calls still open on it. Idempotent."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _response(
        self,
        method: UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout: float | None,
    ) -> _ResponseT:
        self._check_open()
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise _failure(error, Answer()) from error

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")


def _failure(error: grpc.RpcError, answer: Answer) -> TokenwireError:
    return from_status(
        error.code(),
        error.details() or "",
        ((entry.key, entry.value) for entry in error.trailing_metadata() or ()),
        stream_id=answer.stream_id,
        last_sequence=answer.last_sequence,
    )
