"""HTTP/1.1 connections: uvicorn's protocol with the limits that it lacks.

A connection is always in one of these states, and each ends by itself:

    waiting for a head   until `header_timeout_s`; between two requests until `keep_alive_s`
    responding           while the caller accepts data: see `write_stall_s`
    lingering            the last response is written and input is discarded, until LINGER_S
    upgraded             it belongs to uvicorn's WebSocket protocol
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from ..problems import Problem
from ..settings import Settings
from .body_writer import EXTENSION, BodyWriter
from .overload import MAX_EXCESS, Overload, respond_overloaded

MAX_HEADERS = 100
"""Headers of a request. More get 431."""
MAX_PIPELINED = 8
"""Requests of a connection that wait for the one before them. With one more, the connection is closed."""
LINGER_S = 2.0
"""Seconds in which a caller that is still sending can read the response that refuses its request."""
PROBES = frozenset({"/healthz", "/readyz"})
"""Paths that are served above the limit of connections: a process that is busy must not look broken."""

_HOP_BY_HOP = frozenset({b"upgrade", b"http2-settings"})


def protocol_class(settings: Settings) -> type[HttpToolsProtocol]:
    """Return the protocol with the limits of `settings`, for `uvicorn.Config(http=...)`."""

    class Bound(EdgeHttpProtocol):
        limits = settings
        overload = Overload()

    return Bound


class EdgeHttpProtocol(HttpToolsProtocol):
    """One connection. The base class parses its requests, runs the application and writes the responses."""

    limits: ClassVar[Settings]
    overload: ClassVar[Overload]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = self.limits.keep_alive_s  # type: ignore[assignment]  # a float will do
        self._socket: asyncio.Transport
        """The transport. The base class gets `_Transport` instead, whose `close` is `_close`."""
        self._running: RequestResponseCycle | None = None
        """The request that is being answered. `cycle` is the last one that was parsed."""
        self._is_excess = False
        self._is_idle = False
        self._is_closing = False
        self._is_deaf = False
        """All further input is discarded."""
        self._stall_timer: asyncio.TimerHandle | None = None
        self._unwritten = 0
        # The message that is being parsed:
        self._in_head = True
        self._has_begun = False
        self._head_size = 0
        """Bytes of the request line and of the headers, as far as they are parsed; also of trailers."""
        self._unparsed = 0
        """Bytes received since the parser last reported anything. It keeps an incomplete line in memory."""

    # Opening and closing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        connections = len(self.connections)
        self._socket = self.transport = transport
        if connections >= self.limits.max_connections:
            self.overload.log(self.loop.time(), self.limits.max_connections)
            if connections >= self.limits.max_connections + MAX_EXCESS:
                self._is_closing = self._is_deaf = True
                transport.write(self._response(self.overload.problem))
                transport.close()
                return
            self._is_excess = True
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", _Transport(self))
        timeout_s = self.limits.header_timeout_s
        self._start_timer(min(timeout_s, LINGER_S) if self._is_excess else timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._unset_keepalive_if_required()
        self._stop_stall_timer()
        # The base class informs only the last request.
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        self.transport = self._socket

    def _close(self) -> None:
        """Close the connection when everything is written, or when the caller stops reading."""
        if self._is_closing:
            return
        self._is_closing = self._is_deaf = True
        self._unset_keepalive_if_required()
        is_unread = not self._in_head or self._has_begun
        if is_unread and self._socket.can_write_eof():
            # Closing a socket that has unread input resets the connection. The caller, which is still
            # sending, would get an error instead of the response.
            self._socket.write_eof()
            self.flow.resume_reading()
            self._start_timer(LINGER_S, self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        self._socket.close()
        if self._socket.get_write_buffer_size():
            self._start_stall_timer()

    def _refuse(self, problem: Problem) -> None:
        """Answer the message that is being parsed with `problem`, discard the rest, and close."""
        if self._is_deaf:
            return
        self._is_deaf = True
        running = self._running
        if running is not None and not running.response_complete:
            if running is not self.cycle or not running.more_body or running.response_started:
                # A response is in progress: one that refuses a later request cannot be written now.
                last = self.pipeline[0][0] if self.pipeline else running
                last.keep_alive = False
                return
            running.disconnected = True
            running.message_event.set()
        self._has_begun = True
        self._socket.write(self._response(problem))
        self._close()

    def _response(self, problem: Problem) -> bytes:
        body = problem.body()
        headers = [
            *self.server_state.default_headers,
            *((name.encode(), value.encode()) for name, value in problem.headers().items()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return b"%b%b\r\n%b" % (STATUS_LINE[problem.status], lines, body)

    # Timers. `timeout_keep_alive_task` is the base class's, and the only one of a state.

    def _start_timer(self, delay_s: float, callback: Callable[[], None] | None = None) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(delay_s, callback or self._end_head)

    def _end_head(self) -> None:
        if self._is_excess:
            self._refuse(self.overload.problem)
        elif self._has_begun:
            timeout_s = self.limits.header_timeout_s
            text = f"the request's head did not arrive within {timeout_s:g} seconds"
            self._refuse(Problem(408, "REQUEST_TIMEOUT", text))
        else:
            self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_stall_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()
        if self._socket.is_closing():
            self._flush()

    def _start_stall_timer(self) -> None:
        self._stop_stall_timer()
        self._unwritten = self._socket.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self.limits.write_stall_s, self._check_stall)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _check_stall(self) -> None:
        if self._socket.get_write_buffer_size() < self._unwritten:
            self._start_stall_timer()
        else:
            self._socket.abort()

    # Parsing

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self._is_idle:
            self._is_idle = False
            self._start_timer(self.limits.header_timeout_s)
        self._unparsed += len(data)
        try:
            self._parse(data)
        except _Refused as refused:
            self._refuse(refused.problem)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.problem if isinstance(cause, _Refused) else _malformed())
        else:
            if self._unparsed > self.limits.max_header_bytes:
                self._refuse(self._head_too_large())

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            else:
                return
            if self._should_upgrade():
                self._upgrade()
                return
            self._parse_head_again()

    def _upgrade(self) -> None:
        if self._is_excess:
            raise _Refused(self.overload.problem)
        if self._running is not None and not self._running.response_complete:
            raise _Refused(_malformed())
        self.transport = self._socket
        self.handle_websocket_upgrade()

    def _parse_head_again(self) -> None:
        """Parse the head without its Upgrade header, which a server may ignore.

        Java's HTTP client offers to upgrade to HTTP/2 with its first request. The parser would not parse the
        body of such a request: it leaves all further bytes to the other protocol.
        """
        method = self.scope["method"].encode()
        if method == b"CONNECT":
            raise _Refused(Problem(501, "INVALID_REQUEST", "the method CONNECT is not supported"))
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                options = {option.strip().lower() for option in value.split(b",")}
                value = b", ".join(options - _HOP_BY_HOP)  # noqa: PLW2901
            if name not in _HOP_BY_HOP:
                lines.append(b"%b: %b\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(
            lenient_data_after_close=True
        )  # as the base class does
        self.parser.feed_data(b"".join([*lines, b"\r\n"]))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._has_begun = True
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if not self._in_head:
            return  # a trailer: the headers belong to the application by now
        if len(self.headers) == MAX_HEADERS:
            text = f"the request has more than {MAX_HEADERS} headers"
            raise _Refused(Problem(431, "HEADER_TOO_LARGE", text))
        super().on_header(name, value.rstrip(b" \t"))  # the parser removes only what precedes it

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self.limits.max_header_bytes:
            raise _Refused(self._head_too_large())
        if not self._in_head:
            self._unparsed = 0

    def _head_too_large(self) -> Problem:
        limit = self.limits.max_header_bytes
        return Problem(
            431,
            "HEADER_TOO_LARGE",
            f"the request's head is larger than {limit} bytes",
            facts={"allowed": str(limit)},
        )

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unparsed = 0
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            what = "more than one header Host" if hosts else "no header Host"
            raise _Refused(
                Problem(400, "INVALID_REQUEST", f"the request has {what}")
            )  # RFC 9112, 3.2
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            if not self._should_upgrade():
                return  # see _parse_head_again
        if len(self.pipeline) == MAX_PIPELINED:
            raise _Refused(_malformed())
        self._unset_keepalive_if_required()
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            # A response before the end of the body is the connection's last one: see on_message_complete.
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def on_chunk_header(self) -> None:
        self._unparsed = 0

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._has_begun = False
        self._unparsed = 0
        if self.parser.should_upgrade():
            return
        self.cycle.default_headers = self.server_state.default_headers
        super().on_message_complete()

    # Running the application

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        extensions = cast("dict[str, object]", cycle.scope.setdefault("extensions", {}))
        extensions[EXTENSION] = BodyWriter(cycle)
        if self._is_excess:
            cycle.keep_alive = False
            if cycle.scope["path"] not in PROBES:
                app = respond_overloaded
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is None or self._is_closing:
            return
        self._is_idle = not self._has_begun
        if self._has_begun:
            self._start_timer(self.limits.header_timeout_s)


class _Transport:
    """The part of a transport that the base class uses. `close` is the protocol's `_close`."""

    __slots__ = ("_protocol", "close", "write")

    def __init__(self, protocol: EdgeHttpProtocol) -> None:
        self._protocol = protocol
        self.close = protocol._close
        self.write = protocol._socket.write

    def is_closing(self) -> bool:
        protocol = self._protocol
        return protocol._is_closing or protocol._socket.is_closing()


class _Refused(Exception):
    """Raised by the parser's callbacks to refuse the message that is being parsed."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def _malformed() -> Problem:
    return Problem(400, "INVALID_REQUEST", "the request is not valid HTTP/1.1")
