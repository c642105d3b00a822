"""Bounds on the HTTP framing around the bodies of responses: heads, chunk sizes, trailers.

aiohttp bounds each header and the number of headers. It does not bound responses of status 1xx before the
answer, white space before a header's value, zeros before a chunk's size, or chunk extensions. The code that
waits for the answer sees none of these, and parsing them can keep a core busy.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from .pushing import PushReader

MAX_HEADER_BYTES = 16 * 1024
"""Maximum size of a header, and of the status line. Some gateways send headers of 10 KB."""
MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of all before the body: responses of status 1xx, the status line and all headers."""
MAX_FRAMING_BYTES = 64 * 1024
"""Maximum size of chunk sizes, extensions and trailers, plus `FRAMING_RATIO` for each byte of the body."""
FRAMING_RATIO = 8
"""Bytes of framing that are accepted for each byte of the body. A chunk of one byte has five."""

READ_BUFFER_BYTES = 16 * 1024
"""Bytes that are received but not read yet. Beyond twice as many, or 1,024 chunks, the connection pauses."""

_HEAD_STEP_BYTES = 8 * 1024
"""Bytes that are parsed at once before the body begins: at most 400 responses of status 1xx, in 5 ms."""
MAX_PUSH_BYTES = 8 * 1024
"""Bytes of what arrives at once that are passed on in the callback. In the worst case, SSE comments of three
bytes each, they take 1.5 ms to decode."""
_CHECK_BYTES = 64 * 1024
"""Bytes that are received between two checks of the framing."""


class FramingError(aiohttp.ClientPayloadError):
    """The answer's framing exceeds a bound. `str(error)` contains nothing that the provider sent."""


class BoundedConnector(aiohttp.TCPConnector):
    """Opens connections that fail with FramingError instead of exceeding a bound."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(BoundedProtocol, self._loop)  # type: ignore[assignment]


class BoundedProtocol(ResponseHandler):
    """aiohttp's protocol (3.14.5), which also counts what it receives, and fails a body that is not complete
    when the connection ends.

    Its bodies are of the class PushReader.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.receive: Callable[[bytes], bool] | None = None
        """See `PushReader`."""
        self.push_room_bytes = 0
        self._received_bytes = 0
        """Counted since the request was sent."""
        self._check_at_bytes = _HEAD_STEP_BYTES

    def set_response_params(self, **params: Any) -> None:
        """Restart the count for a request that is about to be sent."""
        self._received_bytes = 0
        self._check_at_bytes = _HEAD_STEP_BYTES
        self._payload = None  # of the previous request
        super().set_response_params(**params)

    def send(self, head: bytes, body: bytes) -> None:
        """Send a request. `read` returns the head of its response with the body, and before it the heads of
        status 1xx. The connection must be open, and have no other response.
        """
        self.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        if self.transport is None:
            raise aiohttp.ClientConnectionError("the connection is closed")
        self.transport.writelines((head, body))

    def connection_lost(self, exc: BaseException | None) -> None:
        """End. After invalid chunked framing aiohttp does not end the body, and `read` would wait forever."""
        body = self._payload
        super().connection_lost(exc)
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(
                aiohttp.ClientPayloadError("the connection ended before the end of the body")
            )

    def feed_data(self, data: tuple[Any, StreamReader], size: int = 0) -> None:
        """Take a head and its body."""
        _, body = data
        if type(body) is StreamReader and body is not EMPTY_PAYLOAD:
            body.__class__ = PushReader
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        self.push_room_bytes = MAX_PUSH_BYTES
        self._received_bytes += len(data)
        if self._received_bytes < self._check_at_bytes:
            super().data_received(data)
        else:
            self._receive_and_check(data)

    def _receive_and_check(self, data: bytes) -> None:
        around_bytes = self._received_bytes - len(data)
        while data and not self._is_in_body:
            step, data = data[:_HEAD_STEP_BYTES], data[_HEAD_STEP_BYTES:]
            around_bytes += len(step)
            super().data_received(step)
            if self._should_close and self._exception is not None:
                return
            if around_bytes > MAX_HEAD_BYTES and not self._is_in_body:
                self._refuse(f"sent more than {MAX_HEAD_BYTES // 1024} KiB before its answer")
                return
        if self._is_in_body:
            super().data_received(data)
            self._check_framing()
            self._check_at_bytes = self._received_bytes + _CHECK_BYTES

    @property
    def _is_in_body(self) -> bool:
        payload = self._payload
        return payload is not None and payload is not EMPTY_PAYLOAD and not payload.is_eof()

    def _check_framing(self) -> None:
        payload = self._payload
        if payload is None or self._reading_paused:  # paused: not all received bytes are parsed
            return
        around_bytes = self._received_bytes - payload.total_bytes
        allowed_bytes = MAX_HEAD_BYTES + MAX_FRAMING_BYTES + FRAMING_RATIO * payload.total_bytes
        if around_bytes > allowed_bytes:
            self._refuse(
                f"sent {around_bytes // 1024} KiB around {payload.total_bytes} bytes of its answer"
            )

    def _refuse(self, why: str) -> None:
        error = FramingError(why)
        if self._payload is not None:
            self._payload.set_exception(error)
        self._payload = self._parser = None  # they would replace the error when the connection ends
        self.set_exception(error)
        if self.transport is not None:
            self.transport.abort()
