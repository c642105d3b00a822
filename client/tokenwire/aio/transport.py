"""The I/O of the asyncio client: its channel, its calls, and how they are waited for.

`sync/transport.py` has the same names and the same behaviour for threads. Everything else in `aio/` and
`sync/` is common: see `scripts/generate_sync.py`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from weakref import WeakSet, WeakValueDictionary

import grpc
from google.protobuf.message import Message as ProtoMessage

from tokenwire.v1.caller_pb2_grpc import CallerServiceStub
from tokenwire.v1.chat_pb2 import ChatRequest, ResumeStreamRequest
from tokenwire.v1.chat_pb2_grpc import ChatServiceStub
from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire.v1.model_pb2_grpc import ModelServiceStub
from tokenwire.v1.usage_pb2_grpc import UsageServiceStub

from .._checks import check_seconds
from ..connect.channel import Connection
from ..errors import Cancelled, TokenwireError
from ..stream.retry import Retries
from ..wire.metadata import Allowance, InitialMetadata, parse_initial_metadata
from ..wire.status import CALL_CANCELLED, CLIENT_CLOSED, TWO_READERS, from_status

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryMultiCallable

    from tokenwire.v1.caller_pb2_grpc import CallerServiceAsyncStub
    from tokenwire.v1.chat_pb2_grpc import ChatServiceAsyncStub
    from tokenwire.v1.model_pb2_grpc import ModelServiceAsyncStub
    from tokenwire.v1.usage_pb2_grpc import UsageServiceAsyncStub

_RequestT = TypeVar("_RequestT", bound=ProtoMessage)
_ResponseT = TypeVar("_ResponseT", bound=ProtoMessage)


class OpenStream(Protocol):
    """A stream whose block was entered and not left."""

    async def end_with_client(self) -> None: ...


class AsyncTransport:
    """One channel and the calls on it. The first call creates it, for the running event loop."""

    def __init__(self, connection: Connection, max_retries: int) -> None:
        self.target = connection.target
        self.allowances: tuple[Allowance, ...] = ()
        """From the newest response that reported any."""
        self.is_closed = False
        self._max_retries = max_retries
        self._has_started = False
        """A server has accepted a stream."""
        self._waiting: set[asyncio.Event] = set()
        self._connection = connection
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open_calls = WeakSet[grpc.aio.UnaryStreamCall[Any, TokenEvent]]()
        self._background_tasks: set[asyncio.Task[None]] = set()
        self.open_streams = WeakValueDictionary[int, OpenStream]()
        """The streams whose block was entered and not left, by their `id()`."""

    @cached_property
    def caller(self) -> CallerServiceAsyncStub:
        """Stub of CallerService."""
        return cast("CallerServiceAsyncStub", CallerServiceStub(self._open_channel()))

    @cached_property
    def chat(self) -> ChatServiceAsyncStub:
        """Stub of ChatService."""
        return cast("ChatServiceAsyncStub", ChatServiceStub(self._open_channel()))

    @cached_property
    def model(self) -> ModelServiceAsyncStub:
        """Stub of ModelService."""
        return cast("ModelServiceAsyncStub", ModelServiceStub(self._open_channel()))

    @cached_property
    def usage(self) -> UsageServiceAsyncStub:
        """Stub of UsageService."""
        return cast("UsageServiceAsyncStub", UsageServiceStub(self._open_channel()))

    def check_open(self) -> None:
        """Raise RuntimeError if the client was closed, or belongs to another event loop."""
        if self.is_closed:
            raise RuntimeError("the client is closed")
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "an AsyncClient belongs to the event loop of its first call: create one in each loop"
            )

    async def unary(
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
                return await self._unary_once(method, request, _remaining_s(deadline))
            except TokenwireError as error:
                wait_s = retries.wait_s(error, remaining_s=_remaining_s(deadline))
                if wait_s is None:
                    raise
                refusal = error
            await self.wait_until_set(asyncio.Event(), wait_s)
            if self.is_closed:
                raise Cancelled(CLIENT_CLOSED, request_id=refusal.request_id) from refusal

    async def wait_until_set(self, event: asyncio.Event, timeout_s: float) -> bool:
        """Wait for an event. Return False if it was not set within `timeout_s`. `close` sets it, too."""
        self._waiting.add(event)
        try:
            if self.is_closed:
                return True
            async with asyncio.timeout(timeout_s):
                return await event.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(event)

    async def _unary_once(
        self,
        method: UnaryUnaryMultiCallable[_RequestT, _ResponseT],
        request: _RequestT,
        timeout_s: float | None,
    ) -> _ResponseT:
        call = method(request, timeout=timeout_s, metadata=self._connection.metadata)
        try:
            response = await call
            self.take_metadata(await call.initial_metadata())
        except grpc.aio.AioRpcError as error:
            raise self.failure(error, request_id=_request_id(request)) from error
        except asyncio.CancelledError:
            if not _is_call_cancelled(call):
                raise
            raise self.cancelled() from None
        return response

    def stream(
        self, request: ChatRequest | ResumeStreamRequest, timeout_s: float | None
    ) -> AsyncStreamCall:
        """Start a call that starts or resumes a stream."""
        metadata = self._connection.metadata
        call: grpc.aio.UnaryStreamCall[Any, TokenEvent]
        if isinstance(request, ChatRequest):
            call = self.chat.ChatStream(request, timeout=timeout_s, metadata=metadata)
        else:
            call = self.chat.ResumeStream(request, timeout=timeout_s, metadata=metadata)
        self._open_calls.add(call)
        return AsyncStreamCall(self, call)

    def failure(
        self,
        error: grpc.aio.AioRpcError,
        stream_id: str = "",
        last_sequence: int = 0,
        *,
        request_id: str = "",
    ) -> TokenwireError:
        """Return the error for the end of a call."""
        metadata = error.initial_metadata() or ()
        return from_status(
            error.code(),
            error.details() or "",
            error.trailing_metadata() or (),
            stream_id=stream_id or parse_initial_metadata(metadata).stream_id,
            last_sequence=last_sequence,
            request_id=request_id,
            target=self.target,
            has_started=self._has_started,
        )

    async def run_to_end(
        self, function: Callable[[AsyncStreamCall], Awaitable[None]], call: AsyncStreamCall
    ) -> None:
        """Await the function. If the awaiting task is cancelled, it continues in the background."""

        async def run() -> None:
            await function(call)

        task = asyncio.create_task(run())
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)
        await asyncio.wait([task])

    async def close(self) -> None:
        """Cancel the generations of open streams that end with them, and end the calls and the connection.

        It waits for the functions in the background.
        """
        self.is_closed = True
        for event in list(self._waiting):
            event.set()
        ends = [stream.end_with_client() for stream in list(self.open_streams.values())]
        await asyncio.gather(*ends, return_exceptions=True)
        if self._background_tasks:
            await asyncio.wait(self._background_tasks)
        for call in self._open_calls:  # older grpcio does not end them with the channel
            call.cancel()
        if self._channel is not None:
            await self._channel.close()

    def cancelled(self, stream_id: str = "", last_sequence: int = 0) -> Cancelled:
        """Return the error for a call that this client cancelled."""
        message = CLIENT_CLOSED if self.is_closed else CALL_CANCELLED
        return Cancelled(message, stream_id=stream_id, last_sequence=last_sequence)

    def _open_channel(self) -> grpc.aio.Channel:
        self.check_open()
        if self._channel is None:
            self._loop = asyncio.get_running_loop()
            target, options = self.target, self._connection.options
            if (tls := self._connection.tls) is None:
                self._channel = grpc.aio.insecure_channel(target, options=options)
            else:
                credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
                self._channel = grpc.aio.secure_channel(target, credentials, options=options)
        return self._channel

    def take_metadata(self, metadata: Any) -> InitialMetadata:
        """Parse the initial metadata of a call, and keep its allowances."""
        found = parse_initial_metadata(metadata)
        self.allowances = found.allowances or self.allowances
        self._has_started = self._has_started or bool(found.stream_id)
        return found


class AsyncStreamCall:
    """One call that reads a stream."""

    def __init__(
        self, transport: AsyncTransport, call: grpc.aio.UnaryStreamCall[Any, TokenEvent]
    ) -> None:
        self._transport = transport
        self._call = call
        self._is_reading = False
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()

    def __del__(self) -> None:
        """End a call that was not left. Without asyncio, gRPC does this by itself.

        The tasks of grpc.aio refer to their call, so it would continue without a reader.
        """
        if self._call.done():
            return
        with suppress(RuntimeError):  # the loop is closed, which has ended the call
            if self._loop.is_running() and threading.get_ident() != self._thread_id:
                self._loop.call_soon_threadsafe(self._call.cancel)
            else:  # a callback might not run any more
                self._call.cancel()

    @property
    def is_open(self) -> bool:
        """Whether the call has not ended yet."""
        return not self._call.done()

    async def initial_metadata(self, within_s: float | None = None) -> InitialMetadata | None:
        """Wait for the initial metadata. A refusal has none, and is raised by `read`.

        Returns None, and cancels the call, if the server does not answer within `within_s`.
        """
        try:
            async with asyncio.timeout(within_s):
                metadata = await self._call.initial_metadata()
        except TimeoutError:
            self._call.cancel()
            return None
        except asyncio.CancelledError:
            if not _is_call_cancelled(self._call):
                raise
            raise self._transport.cancelled() from None
        return self._transport.take_metadata(metadata)

    async def read(self, stream_id: str, last_sequence: int) -> TokenEvent | None:
        """Return the next event, or None when the call has ended with status OK.

        Raises TokenwireError for another status. The arguments are the reader's position, for the error.
        """
        if self._is_reading:
            raise RuntimeError(TWO_READERS)
        self._is_reading = True
        try:
            event = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._transport.failure(error, stream_id, last_sequence) from error
        except asyncio.CancelledError:
            if not _is_call_cancelled(self._call):
                raise
            raise self._transport.cancelled(stream_id, last_sequence) from None
        finally:
            self._is_reading = False
        return event if isinstance(event, TokenEvent) else None

    def cancel(self) -> None:
        """End the call."""
        self._call.cancel()

    def cancel_later(self, seconds: float) -> None:
        """End the call if it is still open after so many seconds."""
        self._loop.call_later(seconds, self._call.cancel)


def _remaining_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _request_id(request: ProtoMessage) -> str:
    return request.request_id if isinstance(request, ChatRequest) else ""


def _is_call_cancelled(call: grpc.aio.Call) -> bool:
    """Return whether a CancelledError comes from the call, and not from the cancellation of this task.

    gRPC raises the same one for both. A task that is being cancelled must not suppress it.
    """
    task = asyncio.current_task()
    return call.cancelled() and not (task is not None and task.cancelling())
