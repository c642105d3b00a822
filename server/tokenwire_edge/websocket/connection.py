"""uvicorn's WebSocket protocol, with the limits that it lacks.

uvicorn 0.54 (`websockets_sansio_impl.py`) lets `send` wait while more than the transport's high-water mark is
unsent, bounds the size of a message over all of its fragments (close code 1009), and closes a connection
whose peer answers no ping (1011). It does not

- end a connection whose peer reads nothing: `transport.close()` first waits for the unsent bytes,
- bound the number of a message's fragments, each of which costs memory although it may be empty,
- bound the size of the messages that all connections are receiving,
- bound the pongs that wait for a peer that sends pings and reads nothing,
- let callers without a key send less than callers with one,
- let streams end before it closes a connection at a shutdown,
- read what the peer still sends after a message that it refuses. The operating system then resets the
  connection, and the peer may lose the close frame with its code,
- close a connection without a traceback in the log for invalid UTF-8, or for a `send` after a failed ping.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame
from websockets.http11 import Response

from ..problems import Problem

if TYPE_CHECKING:
    from asyncio.transports import BaseTransport

    from uvicorn._types import ASGISendEvent

_EXTENSION = "tokenwire.connection"

MAX_UNAUTHENTICATED_BYTES = 16 * 1024
"""Size of a message before the caller is authenticated. A key has at most a few hundred bytes."""
MAX_FRAGMENTS = 8192
"""Fragments of one message. 16 MiB need fragments of at least 2 KiB on average."""
DISCARD_S = 1.0
"""Time to discard what a peer still sends after it was sent a close frame for an invalid message."""


class EdgeWebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection. Give the class to uvicorn as `ws`."""

    on_shutdown: Callable[[], None] | None = None
    """Called instead of closing the connection at once when the process shuts down."""

    _all_bytes_held = 0
    """Bytes of messages that all connections of the process have received in part."""
    _bytes_held = 0
    _has_failed = False
    _max_bytes_held: int | None = None
    _late_pong = b""
    _stall_timer: TimerHandle | None = None
    _stalled_s = 0.0
    _unsent_bytes = 0

    @staticmethod
    def of(websocket: WebSocket) -> EdgeWebSocketProtocol | None:
        """Return the connection of a request, or None if its server does not use this class."""
        extension = websocket.scope.get("extensions", {}).get(_EXTENSION, {})
        connection: EdgeWebSocketProtocol | None = extension.get("connection")
        return connection

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.conn.max_message_size = min(MAX_UNAUTHENTICATED_BYTES, self.config.ws_max_size)
        self.conn.reject = self._refusal  # type: ignore[method-assign]  # its own are plain text

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        self._hold(0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._has_failed:
            return
        super().data_received(data)
        if not self._has_failed:
            self._hold(len(self.conn.reader.buffer) + (self.conn.current_size or 0))

    def allow_large_messages(self) -> None:
        """Accept messages of up to `ws_max_size` bytes from now on, because the caller is authenticated."""
        self.conn.max_message_size = self.config.ws_max_size

    def limit(self, *, max_bytes_held: int, write_stall_s: float) -> None:
        """Set limits. Call it once.

        Args:
            max_bytes_held: Size of the messages that all connections of the process are receiving. The
                connection that exceeds it is closed with 1013.
            write_stall_s: The connection is aborted when its peer has accepted no data for this time, or for
                up to a quarter more.
        """
        self._max_bytes_held = max_bytes_held
        self._watch_writes(write_stall_s)

    def _watch_writes(self, stall_s: float) -> None:
        unsent_bytes = self.transport.get_write_buffer_size()
        is_waiting = not self.writable.is_set() or self.transport.is_closing()
        # While `send` waits, only a few pings are added.
        is_stalled = is_waiting and unsent_bytes >= self._unsent_bytes
        self._stalled_s = self._stalled_s + stall_s / 4 if is_stalled else 0.0
        self._unsent_bytes = unsent_bytes
        if self._stalled_s > stall_s:
            self.transport.abort()
            return
        self._stall_timer = self.loop.call_later(stall_s / 4, self._watch_writes, stall_s)

    async def run_asgi(self) -> None:
        self.scope["extensions"][_EXTENSION] = {"connection": self}
        await super().run_asgi()

    async def send(self, message: ASGISendEvent) -> None:
        await self.writable.wait()
        if self.close_sent and message["type"] in {"websocket.send", "websocket.close"}:
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # Otherwise uvicorn logs an error about each handshake that was refused.
            self.handshake_complete = True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._late_pong and not self.transport.is_closing():
            self.transport.write(self._late_pong)
        self._late_pong = b""

    def shutdown(self) -> None:
        if self.on_shutdown is not None and not self.close_sent:
            self.on_shutdown()
        else:
            super().shutdown()

    def handle_parser_exception(self) -> None:
        """Send the close frame and the end of this direction, then discard input until the peer's end."""
        if self._has_failed:
            return
        closed = self.conn.close_sent
        if closed is None:  # the handshake is not accepted yet, so no frame can be sent
            self.transport.abort()
            return
        self._has_failed = self.close_sent = True
        self._hold(0)
        self.frames, self._late_pong = [], b""
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason}
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(DISCARD_S, self.transport.close)

    def handle_ping(self) -> None:
        if self._has_failed:
            return
        if self.writable.is_set():
            super().handle_ping()
        elif pongs := self.conn.data_to_send():
            self._late_pong = pongs[-1]  # RFC 6455, 5.5.3: the newest ping may be answered alone

    def handle_text(self, event: Frame) -> None:
        super().handle_text(event)
        self._limit_fragments()

    def handle_bytes(self, event: Frame) -> None:
        super().handle_bytes(event)
        self._limit_fragments()

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        self._limit_fragments()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, "invalid UTF-8")
                return
        super().send_receive_event_to_app()

    def keepalive_timeout(self) -> None:
        if self.writable.is_set():
            super().keepalive_timeout()
        else:  # The ping waits behind unsent bytes: `write_stall_s` decides how long it may.
            self.pong_timer = None
            self.schedule_ping()

    def _refusal(self, status: int, text: str) -> Response:
        """Return the response to a handshake that is invalid, or that no route has accepted."""
        reason = "INTERNAL" if status >= 500 else "INVALID_REQUEST"
        problem = Problem(int(status), reason, text.partition("\n")[0].removesuffix("."))
        body = problem.body()
        headers = [(name.decode(), value.decode()) for name, value in self.default_headers]
        headers += problem.headers().items()
        headers += [("content-length", str(len(body))), ("connection", "close")]
        return Response(problem.status, HTTPStatus(status).phrase, Headers(headers), body)

    def _limit_fragments(self) -> None:
        if len(self.frames) > MAX_FRAGMENTS:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_FRAGMENTS} fragments")

    def _hold(self, size: int) -> None:
        EdgeWebSocketProtocol._all_bytes_held += size - self._bytes_held
        self._bytes_held = size
        if (
            size
            and self._max_bytes_held is not None
            and self._all_bytes_held > self._max_bytes_held
        ):
            self._fail(CloseCode.TRY_AGAIN_LATER, "too many messages are being received at once")

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.frames = []  # also after the close frame, while the peer sends on instead of closing
        if not self.close_sent and not self.transport.is_closing():
            self.conn.fail(code, reason)
            self.handle_parser_exception()
