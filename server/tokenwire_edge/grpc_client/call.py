"""One call: a request, and the messages of its response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from tokenwire.errors import ConnectionLost, TokenwireError
from tokenwire.wire.status import CALL_CANCELLED, DEADLINE_PASSED, from_status

from .connection import Connection, Headers, is_credit_due
from .status import end_error, parse_metadata, reset_error, response_error

if TYPE_CHECKING:
    from .channel import Channel

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message accepted from the server. A larger one ends the call with RESOURCE_EXHAUSTED."""

Sink = Callable[[list[bytes]], bool]
"""Takes messages, or returns False. It must not block."""

_PREFIX_BYTES = 5
_COMPRESSED = 1


class Call:
    """A call with one request and any number of response messages.

        async with channel.stream("tokenwire.v1.ChatService/ChatStream", request, timeout_s=60) as call:
            while messages := await call.read():
                ...

    The call begins when the block is entered. Leaving the block, for whatever reason, cancels it, and the
    server is notified at once. Only one task may wait for a call at a time.
    """

    def __init__(
        self, channel: Channel, headers: Headers, request: bytes, timeout_s: float
    ) -> None:
        self._channel = channel
        self._headers = headers
        self._request = b"\0" + len(request).to_bytes(4, "big") + request
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._stream_id = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_time = 0.0
        self._metadata: list[tuple[str, str | bytes]] | None = None
        self._messages: list[bytes] = []
        self._pieces: list[bytes] = []
        """The part of the next message that has arrived."""
        self._missing = _PREFIX_BYTES
        """Bytes that are still missing of this message, or of its prefix."""
        self._unread = 0
        """Bytes received, for which the server has no credit yet."""
        self._is_ended = False
        self._error: TokenwireError | None = None
        self._is_refused = False
        """Whether it is certain that the server did not process the request."""
        self._is_retried = False
        self._stopped: TokenwireError | None = None
        """The reason why this side ended the call, perhaps while the call had no stream."""
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._sink_error: Exception | None = None

    async def __aenter__(self) -> Self:
        """Connect if necessary, and send the request. Raises ConnectionLost or DeadlineExceeded."""
        loop = asyncio.get_running_loop()
        self._deadline_time = loop.time() + self._timeout_s
        self._deadline = loop.call_at(self._deadline_time, self._pass_deadline)
        try:
            await self._start()
        except BaseException:
            self.cancel()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    async def initial_metadata(self) -> list[tuple[str, str | bytes]]:
        """Wait for the response to begin. Raises TokenwireError if the call fails before."""
        while self._metadata is None:
            if self._is_ended:
                if self._error is None:
                    return []
                if self._is_refused and not self._is_retried:
                    self._is_retried = True
                    await self._start()  # gRPC's transparent retry: no handler has run
                    continue
                raise self._error
            await self._wait()
        return self._metadata

    async def read(self) -> list[bytes]:
        """Return all messages that have arrived, at least one, or [] once the call has ended with status OK.

        Raises TokenwireError for any other status, after all messages before it have been returned.
        """
        if self._metadata is None:
            await self.initial_metadata()
        while not self._messages:
            if self._is_ended:
                if self._error is not None:
                    raise self._error
                return []
            await self._wait()
        messages, self._messages = self._messages, []
        self._credit()
        return messages

    async def push(self, sink: Sink) -> None:
        """Pass messages to `sink` when they arrive, without resuming a task for each.

        Returns when the call has ended, or when `sink` returns False because it did not take the messages.
        `read` returns those, and continues after them. Raises any exception of `sink`.
        """
        if self._messages or self._is_ended:
            return
        self._sink = sink
        try:
            await self._wait()
        finally:
            self._sink = None
        if self._sink_error is not None:
            raise self._sink_error

    def cancel(self) -> None:
        """End the call, if it has not ended."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._stopped is None:
            self._stop(from_status(grpc.StatusCode.CANCELLED, CALL_CANCELLED))

    # Called by the connection.

    def on_headers(self, headers: Headers) -> None:
        if error := response_error(headers):
            self._abort(error)
            return
        self._metadata = parse_metadata(headers)
        self._wake()

    def on_data(self, data: bytes) -> None:
        size = len(data)
        self._unread += size
        if (
            not self._pieces
            and size >= _PREFIX_BYTES
            and data[0] == 0
            and int.from_bytes(data[1:_PREFIX_BYTES], "big") == size - _PREFIX_BYTES
        ):  # exactly one message: the usual case while tokens arrive one by one
            self._messages.append(data[_PREFIX_BYTES:])
            self._deliver()
        else:
            self._pieces.append(data)
            self._missing -= size
            if self._missing <= 0:
                self._take_messages(b"".join(self._pieces))
        if not self._messages:
            self._credit()  # for the rest of a message that may be larger than the window

    def on_end(self, trailers: Headers) -> None:
        self._connection = None
        error = response_error(trailers) if self._metadata is None else None
        error = error or end_error(trailers)
        if error is None and self._pieces:
            error = from_status(grpc.StatusCode.INTERNAL, "the answer ends within a message")
        self._end(error)

    def on_reset(self, code: int, *, is_processed: bool) -> None:
        self._connection = None
        self._is_refused = not is_processed
        self._end(reset_error(code))

    def on_connection_lost(self, text: str, *, is_processed: bool) -> None:
        self._connection = None
        self._is_refused = not is_processed
        self._end(ConnectionLost(text, code=grpc.StatusCode.UNAVAILABLE))

    async def _start(self) -> None:
        """Send the request. Raises ConnectionLost, or the reason if the call is stopped in the meantime."""
        if self._stopped is None:
            try:
                async with asyncio.timeout_at(self._deadline_time):
                    connection = await self._channel.connection()
            except TimeoutError:
                self._pass_deadline()
        if self._stopped is not None:
            raise self._stopped
        self._is_ended, self._error, self._is_refused = False, None, False
        self._connection = connection
        self._stream_id = connection.start(self._headers, self._request, self)

    def _take_messages(self, data: bytes) -> None:
        position, end = 0, len(data)
        missing = _PREFIX_BYTES - end
        while end - position >= _PREFIX_BYTES:
            size = int.from_bytes(data[position + 1 : position + 5], "big")
            if error := _prefix_error(data[position], size):
                self._abort(error)
                return
            after = position + _PREFIX_BYTES + size
            missing = after - end
            if missing > 0:
                break
            self._messages.append(data[position + _PREFIX_BYTES : after])
            position = after
            missing = _PREFIX_BYTES - (end - position)
        rest = data[position:]
        self._pieces, self._missing = [rest] if rest else [], missing
        if self._messages:
            self._deliver()

    def _deliver(self) -> None:
        """Pass the messages to the sink, or wake the task that waits for them."""
        if self._sink is not None:
            try:
                if self._sink(self._messages):
                    self._messages = []
                    return
            except Exception as error:  # noqa: BLE001  # `push` raises it
                self._sink_error = error
        self._wake()

    def _credit(self) -> None:
        if self._connection is not None and is_credit_due(self._unread):
            self._connection.credit(self._stream_id, self._unread)
            self._unread = 0

    def _pass_deadline(self) -> None:
        self._stop(from_status(grpc.StatusCode.DEADLINE_EXCEEDED, DEADLINE_PASSED))

    def _stop(self, error: TokenwireError) -> None:
        self._stopped = error
        self._abort(error)

    def _abort(self, error: TokenwireError) -> None:
        if self._connection is not None:
            self._connection.reset(self._stream_id)
            self._connection = None
        self._end(error)

    def _end(self, error: TokenwireError | None) -> None:
        if self._is_ended:
            return
        self._is_ended, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def _prefix_error(flags: int, size: int) -> TokenwireError | None:
    if flags & _COMPRESSED:
        return from_status(
            grpc.StatusCode.INTERNAL,
            "the server compressed a message, although no compression was offered",
        )
    if size > MAX_MESSAGE_BYTES:
        return from_status(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"a message of {size} bytes is larger than {MAX_MESSAGE_BYTES}",
        )
    return None
