"""One HTTP/2 connection to the server.

The package h2 does everything of RFC 9113 except DATA frames from the server. Those carry the tokens, and
are read here: 2 us for a frame instead of 60. So h2's own windows for received data stay untouched, and the
WINDOW_UPDATE frames for them are written here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

logger = logging.getLogger(__name__)

STREAM_WINDOW_BYTES = 65_535
"""Bytes that a stream may receive before its reader takes them: HTTP/2's default. When the window is used
up, the server stops writing to this stream, and its log holds what follows."""
CONNECTION_WINDOW_BYTES = 1 << 30
"""Bytes for all streams. It never holds back a stream, because the streams' own windows do."""
MAX_FRAME_BYTES = 16_384
"""Largest frame that HTTP/2 allows without negotiation. The server may not send larger ones."""

MAX_HEADER_BYTES = 65_536
"""Largest metadata of a response."""

KEEPALIVE_TIME_S = 30.0
"""Seconds without data from the server, while calls are open, until it is pinged."""
KEEPALIVE_TIMEOUT_S = 10.0
"""Seconds to answer a ping. After it the connection is closed."""

_FRAME_HEADER_BYTES = 9
_DATA, _GOAWAY = 0x0, 0x7
_END_STREAM, _PADDED = 0x1, 0x8
_CONNECTION_CREDIT_BYTES = 1 << 24
_STREAM_CREDIT_BYTES = STREAM_WINDOW_BYTES // 2

Headers = Sequence[tuple[bytes, bytes]]


class StreamHandler(Protocol):
    """What a connection reports about one stream.

    The last report is exactly one of `on_end`, `on_reset` and `on_connection_lost`.
    """

    def on_headers(self, headers: Headers) -> None:
        """The response has begun."""

    def on_data(self, data: bytes) -> None:
        """Take bytes of the body. Once they are read, `Connection.credit` lets the server send more."""

    def on_end(self, trailers: Headers) -> None:
        """The server has ended the stream. A response without a body has only trailers."""

    def on_reset(self, code: int, *, is_processed: bool) -> None:
        """The server has reset the stream. `is_processed` is False if it is certain that it ignored it."""

    def on_connection_lost(self, text: str, *, is_processed: bool) -> None:
        """The connection has ended."""


class Connection(asyncio.Protocol):
    """Streams of one connection. The event loop calls its `asyncio.Protocol` methods."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
            },
        )
        self._transport: asyncio.Transport | None = None
        self._partial = b""
        self._streams: dict[int, StreamHandler] = {}
        self._unsent: dict[int, memoryview] = {}
        """Request bodies that wait for the server's window."""
        self._received = 0
        self._last_data_time = self._last_start_time = self._loop.time()
        self._ping_time: float | None = None
        self._keepalive: asyncio.TimerHandle | None = None
        self._is_going_away = False
        self.ready: asyncio.Future[None] = self._loop.create_future()
        """Done when the server has sent its settings; fails if the connection ends before."""
        self._lost: str | None = None

    # The calls.

    @property
    def has_room(self) -> bool:
        """Whether another stream can be started."""
        return (
            self._lost is None
            and not self._is_going_away
            and len(self._streams) < self._h2.remote_settings.max_concurrent_streams
            and self._h2.highest_outbound_stream_id < self._h2.HIGHEST_ALLOWED_STREAM_ID - 2
        )

    @property
    def is_usable(self) -> bool:
        """Whether streams can be started now or when others end."""
        return self._lost is None and not self._is_going_away

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, and all of its streams."""
        return self._lost is not None

    def start(self, headers: Headers, body: bytes, handler: StreamHandler) -> int:
        """Send a request. Return the stream's id. The connection must have room."""
        stream_id = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream_id, headers)
        self._streams[stream_id] = handler
        self._unsent[stream_id] = memoryview(body)
        self._send_body(stream_id)
        self._last_start_time = self._loop.time()
        if self._keepalive is None:
            self._last_data_time = self._last_start_time
            self._keepalive = self._loop.call_later(KEEPALIVE_TIME_S, self._check_alive)
        self._flush()
        return stream_id

    def reset(self, stream_id: int) -> None:
        """Cancel a stream. Its handler is not called any more."""
        if self._streams.pop(stream_id, None) is None:
            return
        self._unsent.pop(stream_id, None)
        with suppress(ProtocolError):  # it has ended in the meantime
            self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        self._flush()
        self._close_if_unneeded()

    def credit(self, stream_id: int, size: int) -> None:
        """Allow the server to send as many more bytes on a stream."""
        if size and stream_id in self._streams:
            self._write(_window_update(stream_id, size))

    def close(self) -> None:
        """Close the connection. All streams end with `on_connection_lost`."""
        if self._transport is not None and not self._transport.is_closing():
            self._h2.close_connection()
            self._flush()
            self._transport.close()
        self._lose("this client closed the connection")

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._last_data_time = self._loop.time()
        if self._partial:
            data = self._partial + data
        position, end = 0, len(data)
        try:
            while end - position >= _FRAME_HEADER_BYTES:
                length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
                if length > MAX_FRAME_BYTES:
                    raise ProtocolError(f"a frame of {length} bytes")
                after = position + _FRAME_HEADER_BYTES + length
                if after > end:
                    break
                kind = data[position + 3]
                if kind == _DATA:
                    self._on_data_frame(data, position, after)
                elif kind == _GOAWAY:
                    self._go_away(data[position + _FRAME_HEADER_BYTES : after])
                else:
                    self._on_events(self._h2.receive_data(data[position:after]))
                    self._flush()
                position = after
        except ProtocolError as error:
            self._flush()
            self._fail(f"the server broke the HTTP/2 protocol ({error})")
            return
        self._partial = data[position:]
        if self._is_going_away:
            self._close_if_unneeded()

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        text = "the connection to the server was lost"
        self._lose(text if exc is None else f"{text} ({exc})")

    # Frames.

    def _on_data_frame(self, data: bytes, position: int, after: int) -> None:
        flags = data[position + 4]
        stream_id = int.from_bytes(data[position + 5 : position + 9], "big") & 0x7FFF_FFFF
        size = after - position - _FRAME_HEADER_BYTES
        self._received += size
        if self._received >= _CONNECTION_CREDIT_BYTES:
            self._write(_window_update(0, self._received))
            self._received = 0
        handler = self._streams.get(stream_id)
        if handler is not None and size:
            start, stop = position + _FRAME_HEADER_BYTES, after
            if flags & _PADDED:
                padding = 1 + data[start]
                if padding > size:
                    raise ProtocolError("more padding than data")
                start, stop = start + 1, after - (padding - 1)
                self.credit(stream_id, padding)
            handler.on_data(data[start:stop])
        if flags & _END_STREAM:  # gRPC ends with trailers; h2 judges whether this is allowed
            header = b"\0\0\0" + bytes((_DATA, _END_STREAM)) + data[position + 5 : position + 9]
            self._on_events(self._h2.receive_data(header))
            self._flush()

    def _on_events(self, events: list[Event]) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
        trailers: Headers = ()
        for event in events:
            match event:
                case ResponseReceived(stream_id=int(stream_id)):
                    if event.stream_ended is not None:
                        trailers = event.headers or ()
                    elif handler := self._streams.get(stream_id):
                        handler.on_headers(event.headers or ())
                case TrailersReceived():
                    trailers = event.headers or ()
                case StreamEnded(stream_id=int(stream_id)):
                    if self._unsent.pop(stream_id, None) is not None:
                        # Half-closed streams count for both sides, and nobody wants the rest.
                        self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
                    if handler := self._streams.pop(stream_id, None):
                        handler.on_end(trailers)
                case StreamReset(stream_id=int(stream_id)):
                    self._unsent.pop(stream_id, None)
                    if handler := self._streams.pop(stream_id, None):
                        code = event.error_code or 0
                        refused = code == ErrorCodes.REFUSED_STREAM
                        handler.on_reset(code, is_processed=not refused)
                case WindowUpdated() | RemoteSettingsChanged():
                    for stream_id in list(self._unsent):
                        self._send_body(stream_id)
                case PingAckReceived():
                    self._ping_time = None

    def _go_away(self, payload: bytes) -> None:
        """End the streams that the server has not accepted. The others continue.

        h2 would consider the whole connection closed (RFC 9113, section 6.8, lets streams complete).
        """
        if len(payload) < 8:
            raise ProtocolError("a GOAWAY frame that is too short")
        last_stream_id = int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF
        self._is_going_away = True
        for stream_id in [each for each in self._streams if each > last_stream_id]:
            self._unsent.pop(stream_id, None)
            handler = self._streams.pop(stream_id)
            handler.on_connection_lost("the server is shutting down", is_processed=False)

    def _send_body(self, stream_id: int) -> None:
        """Send as much of a request's body as the server's windows allow."""
        body = self._unsent[stream_id]
        try:
            while body:
                size = min(
                    len(body),
                    self._h2.local_flow_control_window(stream_id),
                    self._h2.max_outbound_frame_size,
                )
                if size <= 0:
                    self._unsent[stream_id] = body
                    return
                piece, body = body[:size], body[size:]
                self._h2.send_data(stream_id, bytes(piece), end_stream=not body)
        except ProtocolError:  # the stream has ended before its body was sent
            pass
        del self._unsent[stream_id]

    # The connection.

    def _close_if_unneeded(self) -> None:
        if self._is_going_away and not self._streams:
            self.close()

    def _check_alive(self) -> None:
        self._keepalive = None
        # A server that is gone has answered nothing since the last call, although that has timed out.
        is_answered = self._last_data_time > self._last_start_time
        if self._lost is not None or (is_answered and not self._streams):
            return  # the next call starts the timer again
        now = self._loop.time()
        if self._ping_time is not None and self._last_data_time < self._ping_time:
            self._fail("the server does not answer pings")
            return
        silent_s = now - self._last_data_time
        delay_s = KEEPALIVE_TIME_S - silent_s
        if delay_s <= 0:
            self._ping_time = now
            self._h2.ping(b"tokenwre")
            self._flush()
            delay_s = KEEPALIVE_TIMEOUT_S
        else:
            self._ping_time = None
        self._keepalive = self._loop.call_later(delay_s, self._check_alive)

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _fail(self, text: str) -> None:
        logger.warning("connection to the server closed: %s", text)
        if self._transport is not None:
            self._transport.abort()
        self._lose(text)

    def _lose(self, text: str) -> None:
        if self._lost is not None:
            return
        self._lost = text
        if self._keepalive is not None:
            self._keepalive.cancel()
            self._keepalive = None
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(text))
            self.ready.exception()  # retrieved, in case nobody waits
        streams, self._streams = self._streams, {}
        self._unsent.clear()
        for handler in streams.values():
            handler.on_connection_lost(text, is_processed=True)


def is_credit_due(size: int) -> bool:
    """Return whether so many bytes are worth a WINDOW_UPDATE frame."""
    return size >= _STREAM_CREDIT_BYTES


def _window_update(stream_id: int, size: int) -> bytes:
    return b"\0\0\x04\x08\0" + stream_id.to_bytes(4, "big") + size.to_bytes(4, "big")
