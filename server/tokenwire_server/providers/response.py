"""The response to a request: its head, and its body as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import aiohttp
import httptools
from aiohttp.connector import Connection

MAX_WAITING_BYTES = 16 * 1024
"""Bytes of the body that wait for the reader. Beyond it, the connection pauses."""


class BrokenResponse(aiohttp.ClientError):
    """The connection ended before the response did."""


class Receiver(Protocol):
    """The connection on which a response arrives."""

    push_room_bytes: int

    @property
    def parser(self) -> httptools.HttpResponseParser | None:
        """The parser of the response, or None before the request and after the end."""
        ...

    @property
    def has_unparsed(self) -> bool:
        """Whether bytes of the response have arrived that are not parsed yet."""
        ...

    def send(self, response: Response, head: bytes, body: bytes) -> None:
        """Send a request, and let `response` receive what arrives."""
        ...

    @property
    def has_unsent(self) -> bool:
        """Whether a part of the request has not been passed to the system yet."""
        ...

    def resume(self) -> None:
        """Continue after the reader has taken what was waiting."""
        ...

    def abort(self) -> None:
        """Close the connection immediately."""
        ...


class Response:
    """A response. Its owner must call `release` or `close`.

    `request` sends the request and waits for the head. The body is then read by one task: by `read`, or by
    `push`, which passes on what arrives in the callback of the transport. `read` takes a future and a task
    switch for each token.

    The methods that begin with `on_` are called by the parser, `end` and `fail` by the connection.
    """

    __slots__ = (
        "_connection",
        "_error",
        "_is_interim",
        "_receive",
        "_receiver",
        "_waiter",
        "body_bytes",
        "buffer",
        "ends_with_connection",
        "has_ended",
        "headers",
        "keeps_connection",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        """`connection` is one of the pool, for this response only."""
        self._connection: Connection | None = connection
        self._receiver = cast("Receiver", connection.protocol)
        self.status = 0
        """The status code, or 0 until the head has arrived."""
        self.headers: dict[str, str] = {}
        """The first header of each name, and the last `transfer-encoding`. Names are in lower case."""
        self.has_ended = False
        """Whether the end of the body has arrived. Parts of it may wait to be read."""
        self.keeps_connection = False
        """Whether the connection can be used for another request after this response."""
        self.ends_with_connection = False
        """Whether the end of the connection is the end of the body."""
        self.body_bytes = 0
        """Bytes of the body that have arrived."""
        self._is_interim = False
        """Whether the response that is received is one of status 1xx, which the answer follows."""
        self.buffer = bytearray()
        """The bytes of the body that wait to be read."""
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._receive: Callable[[bytes], bool] | None = None

    async def request(self, head: bytes, body: bytes) -> None:
        """Send a request, and wait for the head of this response.

        Raises aiohttp.ClientError if the connection breaks, or receives data that is not HTTP.
        """
        self._receiver.send(self, head, body)
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._arrival()

    def forget_head(self) -> None:
        """Drop the headers: 2 KiB of each open answer."""
        self.headers = {}

    @property
    def has_more(self) -> bool:
        """Whether `read` may return bytes without waiting for the provider."""
        return bool(self.buffer) or self._receiver.has_unparsed

    @property
    def can_push(self) -> bool:
        """Whether `push` would wait for what arrives. Otherwise `read` must be called."""
        return not (self.has_more or self.has_ended or self._error is not None)

    async def read(self) -> bytes:
        """Wait for the next bytes and return all that have arrived; b"" at the end of the body.

        Raises aiohttp.ClientError when the connection has broken and the bytes before were returned.
        Cancellation loses no bytes.
        """
        while not self.buffer:
            if self._error is not None:
                raise self._error
            if self.has_ended:
                return b""
            if self._connection is None:
                raise BrokenResponse("the response was closed")
            await self._arrival()
        data = bytes(self.buffer)
        self.buffer.clear()
        self._receiver.resume()
        return data

    async def push(self, receive: Callable[[bytes], bool]) -> None:
        """Call `receive` with each piece in the callback of the transport in which it arrives, without the
        switch to a task that `read` needs, until it returns False, more arrives at once than may
        be pushed, the body ends or the connection breaks.

        `can_push` must be true. Raises what `receive` raises. Cancellation loses no bytes.
        """
        self._receive = receive
        try:
            await self._arrival()
        finally:
            self._receive = self._waiter = None

    def _arrival(self) -> asyncio.Future[None]:
        """Return a future that is done when something has arrived. A later call replaces it."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def _wake(self, error: Exception | None = None) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    def on_message_begin(self) -> None:
        if self.has_ended:
            raise BrokenResponse("the connection sent a second response")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        if b"\0" in value:  # the lenient parser accepts it
            raise BrokenResponse("a header contains a NUL character")
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "replace").strip()
        if key == "transfer-encoding":  # the last one says whether the body is in chunks
            self.headers[key] = text
        else:
            self.headers.setdefault(key, text)

    def on_headers_complete(self) -> None:
        parser = self._receiver.parser
        if parser is None:
            return
        status = parser.get_status_code()
        if status < 100:
            raise BrokenResponse(f"{status} is not an HTTP status")
        if 100 <= status < 200 and status != 101:
            self._is_interim = True
            return
        coding = self.headers.get("transfer-encoding", "").lower()
        if coding:
            self.ends_with_connection = not coding.endswith("chunked")
        else:
            self.ends_with_connection = "content-length" not in self.headers
        self.keeps_connection = parser.should_keep_alive()
        self.status = status
        self._wake()

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        receive = self._receive
        if receive is not None:
            receiver = self._receiver
            # No variable refers to the future: it would refer to this frame if `receive` raises.
            is_pushing = self._waiter is not None and not self._waiter.done()
            if is_pushing and len(data) <= receiver.push_room_bytes:
                receiver.push_room_bytes -= len(data)
                try:
                    goes_on = receive(data)
                except Exception as error:  # noqa: BLE001  # `push` raises it
                    self._wake(error)
                else:
                    if not goes_on:
                        self._wake()
                return
        self.buffer += data
        self._wake()

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
            self.headers.clear()
        else:
            self.end()

    def end(self) -> None:
        """Mark the response as complete."""
        self.has_ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Mark the response as failed. `read` returns the waiting bytes before it raises `error`."""
        self._error = error
        self._wake()

    def release(self) -> None:
        """Return the connection to the pool if all of the response has arrived. Otherwise abort it."""
        connection = self._connection
        if connection is None:
            return
        if not self.has_ended or self._receiver.has_unsent:
            self.close()
            return
        self._connection = None
        connection.release()

    def close(self) -> None:
        """Abort the connection. Nothing that is left of the request is sent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._receiver.abort()
        connection.close()
        self._error = None  # its traceback refers to this response, and to the request
