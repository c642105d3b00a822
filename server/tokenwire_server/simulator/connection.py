"""HTTP/1.1 for the simulator: one `asyncio.Protocol` per socket, no task.

Source: RFC 9112. Connections persist, and bodies of unknown length are chunked. Request bodies need a
`content-length`; others get 411. Requests are answered one at a time; pipelined requests wait. A client that
closes its sending half counts as disconnected.

The reason for this implementation is its speed: a token of an answer takes one `write`.
"""

from __future__ import annotations

import asyncio
import http
import socket
import struct
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Protocol, cast

import msgspec

MAX_HEAD_BYTES = 64 * 2**10
MAX_BODY_BYTES = 64 * 2**20
MAX_PIPELINED_BYTES = 64 * 2**10
"""Maximum number of bytes that a client may send while a request is answered. Beyond it, the connection is
closed."""
IDLE_S = 75.0
"""Time limit for receiving a whole request, from the connection or the end of the last answer."""
WRITE_BUFFER_BYTES = 64 * 2**10
"""Size of the write buffer beyond which `is_paused` is set."""


class HttpRequest(msgspec.Struct, frozen=True):
    """A complete request. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Listener(Protocol):
    """Code that answers a request."""

    def resumed(self) -> None:
        """Handle that the client reads again: `is_paused` has become False."""
        ...

    def peer_left(self) -> None:
        """Handle that the client has disconnected. Nothing can be written after this."""
        ...


Handler = Callable[[HttpRequest, "Connection"], None]
"""Function that answers a request, now or later: with `send`, or with `begin`, `write`..., and `end` or
`break_off`."""


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class Connection(asyncio.Protocol):
    """One socket. It is in `connections` while it is open."""

    def __init__(self, handler: Handler, connections: set[Connection]) -> None:
        self._handler = handler
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._searched = 0
        self._head: tuple[str, str, dict[str, str], int] | None = None
        self._is_answering = False
        self._closes_after = False
        self._idle: asyncio.TimerHandle | None = None
        self.is_paused = False
        self.listener: Listener | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._connections.add(self)
        self._idle = self._loop.call_later(IDLE_S, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._connections.discard(self)
        self._stop_idling()
        self._is_answering = True  # so that buffered requests are ignored
        self._leave()

    def eof_received(self) -> None:
        self._transport.abort()
        self._leave()

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        if self.listener is not None:
            self.listener.resumed()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_answering:
            self._advance()
        elif len(self._received) > MAX_PIPELINED_BYTES:
            self._transport.abort()

    def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a complete answer."""
        fields = {"content-length": str(len(body)), **headers}
        self._transport.write(self._head_bytes(status, fields) + body)
        self._answered()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer of unknown length."""
        fields = {"transfer-encoding": "chunked", **headers}
        self._transport.write(self._head_bytes(status, fields))

    def write(self, data: bytes) -> None:
        """Write a piece of the body, not empty. Never waits: the caller must check `is_paused`."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """End the body."""
        self._transport.write(b"0\r\n\r\n")
        self._answered()

    def break_off(self, *, rst: bool) -> None:
        """Close the socket in the middle of the body, after all that was written: with FIN or RST."""
        self.listener = None
        if rst:
            linger = struct.pack("ii", 1, 0)
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.close()

    def abort(self) -> None:
        """Close the socket immediately."""
        self._transport.abort()

    def _leave(self) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.peer_left()

    def _answered(self) -> None:
        self.listener = None
        if self._closes_after:
            self._transport.close()
            return
        self._is_answering = False
        self._idle = self._loop.call_later(IDLE_S, self._transport.abort)
        if self._received:
            self._loop.call_soon(self._advance)

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _advance(self) -> None:
        """Read a request from the received bytes and answer it, if it is complete."""
        if self._is_answering:
            return
        try:
            request = self._take_request()
        except _Refused as refusal:
            self._is_answering = True
            self._closes_after = True
            self._stop_idling()
            body = msgspec.json.encode({"error": {"message": str(refusal)}})
            self.send(refusal.status, {"content-type": "application/json"}, body)
            return
        if request is not None:
            self._is_answering = True
            self._stop_idling()
            self._handler(request, self)

    def _take_request(self) -> HttpRequest | None:
        received = self._received
        if self._head is None:
            end = received.find(b"\r\n\r\n", max(0, self._searched - 3))
            self._searched = len(received)
            if end > MAX_HEAD_BYTES or (end < 0 and len(received) > MAX_HEAD_BYTES):
                raise _Refused(431, f"the head is larger than {MAX_HEAD_BYTES} bytes")
            if end < 0:
                return None
            head = bytes(received[:end])
            del received[: end + 4]
            self._searched = 0
            self._head = self._read_head(head)
        method, path, headers, length = self._head
        if len(received) < length:
            return None
        body = bytes(received[:length])
        del received[:length]
        self._head = None
        self._closes_after = headers.get("connection", "").lower() == "close"
        return HttpRequest(method, path, headers, body)

    def _read_head(self, head: bytes) -> tuple[str, str, dict[str, str], int]:
        line, *fields = head.decode("latin-1").split("\r\n")
        method, _, rest = line.partition(" ")
        target, _, version = rest.partition(" ")
        if version != "HTTP/1.1":
            raise _Refused(
                505 if version.startswith("HTTP/") else 400, "only HTTP/1.1 is supported"
            )
        headers: dict[str, str] = {}
        for field in fields:
            name, colon, value = field.partition(":")
            if not colon or not name or name != name.strip():
                raise _Refused(400, "malformed header")
            headers[name.lower()] = value.strip()
        if "transfer-encoding" in headers:
            raise _Refused(411, "send a content-length")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(400, "malformed content-length")
        if int(length) > MAX_BODY_BYTES:
            raise _Refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return method, target.partition("?")[0], headers, int(length)

    def _head_bytes(self, status: int, headers: Mapping[str, str]) -> bytes:
        try:
            phrase = http.HTTPStatus(status).phrase
        except ValueError:
            phrase = "Overloaded" if status == 529 else "Error"
        connection = "close" if self._closes_after else "keep-alive"
        fields = {"date": formatdate(usegmt=True), "connection": connection, **headers}
        lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
        return f"HTTP/1.1 {status} {phrase}\r\n{''.join(lines)}\r\n".encode("latin-1", "replace")
