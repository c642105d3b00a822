"""The I/O of the client for threads: gRPC's own synchronous stack. See `aio/transport.py`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import grpc
from google.protobuf.message import Message as ProtoMessage

from tokenwire.v1.caller_pb2_grpc import CallerServiceStub
from tokenwire.v1.chat_pb2 import ChatRequest, ResumeStreamRequest
from tokenwire.v1.chat_pb2_grpc import ChatServiceStub
from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire.v1.model_pb2_grpc import ModelServiceStub
from tokenwire.v1.usage_pb2_grpc import UsageServiceStub

from .._checks import check_seconds
from ..connect.channel import CANCEL_TIMEOUT_S, Connection
from ..errors import Cancelled, TokenwireError
from ..stream.retry import Retries
from ..wire.metadata import Allowance, InitialMetadata, parse_initial_metadata
from ..wire.status import CLIENT_CLOSED, TWO_READERS, from_status

if TYPE_CHECKING:
    from grpc import UnaryUnaryMultiCallable

_RequestT = TypeVar("_RequestT", bound=ProtoMessage)
_ResponseT = TypeVar("_ResponseT", bound=ProtoMessage)


class OpenStream(Protocol):
    """A stream whose block was entered and not left."""

    def end_with_client(self) -> None: ...


class Transport:
    """One channel and the calls on it. It connects with the first call."""

    def __init__(self, connection: Connection, max_retries: int) -> None:
        self.target = connection.target
        self.allowances: tuple[Allowance, ...] = ()
        """From the newest response that reported any."""
        self.is_closed = False
        self._max_retries = max_retries
        self._has_started = False
        """A server has accepted a stream."""
        self._waiting: set[threading.Event] = set()
        self._running: set[threading.Event] = set()
        """One for each function that runs to its end."""
        self.open_streams = WeakValueDictionary[int, OpenStream]()
        """The streams whose block was entered and not left, by their `id()`."""
        self._metadata = connection.metadata
        self._channel = _channel(connection)
        self.caller = CallerServiceStub(self._channel)
        self.chat = ChatServiceStub(self._channel)
        self.model = ModelServiceStub(self._channel)
        self.usage = UsageServiceStub(self._channel)

    def check_open(self) -> None:
        """Raise RuntimeError if the client was closed."""
        if self.is_closed:
            raise RuntimeError("the client is closed")

    def unary(
        self,
        method: UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout_s: float | None,
        *,
        max_retries: int | None = None,
        even_if_closed: bool = False,
    ) -> _ResponseT:
        """Call a method that has one response. Raises TokenwireError.

        `timeout_s` includes the retries. `max_retries` is None for the client's default. `even_if_closed` is
        for calls that `close` waits for.
        """
        retries = Retries(self._max_retries if max_retries is None else max_retries)
        timeout_s = check_seconds(timeout_s, "timeout")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if not even_if_closed:
                self.check_open()
            try:
                return self._unary_once(method, request, _remaining_s(deadline))
            except TokenwireError as error:
                wait_s = retries.wait_s(error, remaining_s=_remaining_s(deadline))
                if wait_s is None:
                    raise
                refusal = error
            self.wait_until_set(threading.Event(), wait_s)
            if self.is_closed:
                raise Cancelled(CLIENT_CLOSED, request_id=refusal.request_id) from refusal

    def wait_until_set(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait for an event. Return False if it was not set within `timeout_s`. `close` sets it, too."""
        self._waiting.add(event)
        try:
            return self.is_closed or event.wait(timeout_s)
        finally:
            self._waiting.discard(event)

    def _unary_once(
        self,
        method: UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout_s: float | None,
    ) -> _ResponseT:
        try:
            response, call = method.with_call(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self.failure(error, request_id=_request_id(request)) from error
        except ValueError:
            if not self.is_closed:
                raise
            raise Cancelled(CLIENT_CLOSED) from None  # by another thread, just now
        self.take_metadata(call.initial_metadata())
        return response

    def stream(
        self, request: ChatRequest | ResumeStreamRequest, timeout_s: float | None
    ) -> StreamCall:
        """Start a call that starts or resumes a stream. Raises Cancelled."""
        call: _GrpcCall
        try:
            if isinstance(request, ChatRequest):
                call = self.chat.ChatStream(request, timeout=timeout_s, metadata=self._metadata)
            else:
                call = self.chat.ResumeStream(request, timeout=timeout_s, metadata=self._metadata)
        except ValueError:
            if not self.is_closed:
                raise
            raise Cancelled(CLIENT_CLOSED) from None  # by another thread, just now
        return StreamCall(self, call)

    def failure(
        self,
        error: grpc.RpcError,
        stream_id: str = "",
        last_sequence: int = 0,
        *,
        request_id: str = "",
    ) -> TokenwireError:
        """Return the error for the end of a call."""
        metadata = error.initial_metadata() if isinstance(error, grpc.Call) else ()
        return from_status(
            error.code(),
            error.details() or "",
            ((entry.key, entry.value) for entry in error.trailing_metadata() or ()),
            stream_id=stream_id or parse_initial_metadata(metadata or ()).stream_id,
            last_sequence=last_sequence,
            request_id=request_id,
            target=self.target,
            has_started=self._has_started,
        )

    def run_to_end(self, function: Callable[[StreamCall], None], call: StreamCall) -> None:
        """Call the function. `close` waits for it."""
        is_done = threading.Event()
        self._running.add(is_done)
        try:
            function(call)
        finally:
            is_done.set()
            self._running.discard(is_done)

    def close(self) -> None:
        """Cancel the generations of open streams that end with them, and end the calls and the connection.

        It waits for the functions of `run_to_end`.
        """
        self.is_closed = True
        for event in list(self._waiting):
            event.set()
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        for (
            reference
        ) in self.open_streams.valuerefs():  # a list: other threads change the dictionary
            stream = reference()
            if stream is not None and time.monotonic() < deadline:
                stream.end_with_client()
        for event in list(self._running):
            event.wait(max(0.0, deadline - time.monotonic()))
        self._channel.close()

    def take_metadata(self, metadata: Any) -> InitialMetadata:
        """Parse the initial metadata of a call, and keep its allowances."""
        found = parse_initial_metadata(metadata or ())
        self.allowances = found.allowances or self.allowances
        self._has_started = self._has_started or bool(found.stream_id)
        return found


class StreamCall:
    """One call that reads a stream."""

    def __init__(self, transport: Transport, call: _GrpcCall) -> None:
        self._transport = transport
        self._call = call
        self._reading = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the call has not ended yet."""
        return self._call.is_active()

    def initial_metadata(self, within_s: float | None = None) -> InitialMetadata | None:
        """Wait for the initial metadata. A refusal has none, and is raised by `read`.

        Returns None, and cancels the call, if the server does not answer within `within_s`.
        """
        if within_s is None:
            return self._transport.take_metadata(self._call.initial_metadata())
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._call.cancel()

        timer = threading.Timer(within_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            metadata = self._call.initial_metadata()
        finally:
            timer.cancel()
        return None if is_late.is_set() else self._transport.take_metadata(metadata)

    def read(self, stream_id: str, last_sequence: int) -> TokenEvent | None:
        """Return the next event, or None when the call has ended with status OK.

        Raises TokenwireError for another status. The arguments are the reader's position, for the error.
        """
        if not self._reading.acquire(blocking=False):
            raise RuntimeError(TWO_READERS)
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            raise self._transport.failure(error, stream_id, last_sequence) from error
        finally:
            self._reading.release()

    def cancel(self) -> None:
        """End the call."""
        self._call.cancel()

    def cancel_later(self, seconds: float) -> None:
        """End the call if it is still open after so many seconds."""
        timer = threading.Timer(seconds, self._call.cancel)
        timer.daemon = True
        timer.start()


class _GrpcCall(Protocol):
    """The object that gRPC returns for a call with a stream of responses."""

    def __iter__(self) -> Iterator[TokenEvent]: ...
    def __next__(self) -> TokenEvent: ...
    def cancel(self) -> bool: ...
    def is_active(self) -> bool: ...
    def initial_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def _channel(connection: Connection) -> grpc.Channel:
    target, options = connection.target, connection.options
    if (tls := connection.tls) is None:
        return grpc.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
    return grpc.secure_channel(target, credentials, options=options)


def _remaining_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _request_id(request: ProtoMessage) -> str:
    return request.request_id if isinstance(request, ChatRequest) else ""
