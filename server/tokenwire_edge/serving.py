"""The process that serves HTTP: from its listening sockets to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .http.headers import STATIC_HEADERS
from .http.overload import MAX_EXCESS
from .http.protocol import protocol_class
from .http.shutdown import Shutdown
from .settings import Settings
from .websocket.connection import EdgeWebSocketProtocol

logger = logging.getLogger(__name__)

BACKLOG = 2048
MAX_UNSENT_BYTES = 64 * 1024
"""Bytes of a connection that the kernel queues."""
RESERVED_DESCRIPTORS = 64
"""File descriptors for the event loop, listening sockets, connections to the server and open files."""
END_S = 2.0
"""Seconds after the grace period in which streams can write their last event."""


def run(app: Starlette, settings: Settings) -> int:
    """Serve `app` until SIGTERM or SIGINT, then drain. Return the exit code.

    `app.state.shutdown` must be a `Shutdown`. The line that the process is ready is printed on stdout. A
    second signal ends the open streams at once, a third one the process.
    """
    logging.basicConfig(
        level=settings.log_level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("uvicorn.error").addFilter(_is_unexpected)
    try:
        sockets = bind(settings.listen, write_stall_s=settings.write_stall_s)
    except OSError as error:
        sys.stderr.write(
            f"tokenwire-edge: cannot listen on {settings.listen}: {error.strerror or error}\n"
        )
        return 1
    server = Server(
        config_of(app, settings),
        app.state.shutdown,
        accept_s=settings.drain_accept_s,
        grace_s=settings.drain_grace_s,
    )
    server.run(sockets)
    return 0


def config_of(app: Starlette, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration. Raises the limit of open files to what `settings` need."""
    fitting = _raise_descriptor_limit(settings.max_connections)
    return uvicorn.Config(
        app,
        http=protocol_class(settings.model_copy(update={"max_connections": fitting})),
        ws=EdgeWebSocketProtocol,
        ws_max_size=settings.max_frame_bytes,
        ws_ping_interval=settings.socket_ping_interval_s,
        ws_ping_timeout=settings.socket_ping_interval_s,
        # Events are small: compressing them costs more CPU time and memory than it saves bytes.
        ws_per_message_deflate=False,
        interface="asgi3",
        lifespan="on",
        log_config=None,
        # Its INFO lines contain query strings, which contain tickets; its DEBUG lines contain frames.
        log_level="error" if settings.log_level == "ERROR" else "warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=list(STATIC_HEADERS),
        backlog=BACKLOG,
    )


class Server(uvicorn.Server):
    """uvicorn's server with a shutdown of its own: see `shutdown`."""

    def __init__(
        self, config: uvicorn.Config, shutdown: Shutdown, *, accept_s: float, grace_s: float
    ) -> None:
        super().__init__(config)
        self._shutdown = shutdown
        self._accept_s = accept_s
        self._grace_s = grace_s
        self._is_hurried = False
        """Whether a second signal has arrived."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        line = f"tokenwire-edge: listening on http://{_host_and_port(host, port)}\n"
        try:
            sys.stdout.write(line)
            sys.stdout.flush()
        except OSError:
            logger.info("listening on port %d (stdout cannot be written)", port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new requests; let open ones end; end the streams that remain; then close everything.

        The signal has already made the process unready. In the first `accept_s`, it serves as before: load
        balancers need a moment to notice. If no request is open from then on, the drain ends early.
        """
        ends_at = time.monotonic() + self._grace_s
        logger.info("stopping: open connections: %d", len(self.server_state.connections))
        await self._wait(min(self._accept_s, self._grace_s))
        self._shutdown.refuses.set()
        self._shut_connections(HttpToolsProtocol)  # WebSockets wait for `refuses`
        logger.info(
            "draining: open connections: %d; new requests are refused",
            len(self.server_state.connections),
        )
        await self._wait(ends_at - time.monotonic(), until_idle=True)
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        self._shutdown.end()
        self._shut_connections(asyncio.Protocol)
        await self._wait_until_idle(END_S)
        for task in list(self.server_state.tasks):
            task.cancel()
        await self._wait_until_idle(END_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await self.lifespan.shutdown()

    def _shut_connections(self, kind: type[asyncio.Protocol]) -> None:
        """Close connections that are idle now, and the others once they have responded.

        Those without any request yet stay open until the end: their request gets a response.
        """
        for connection in list(self.server_state.connections):
            if isinstance(connection, kind) and (
                self._shutdown.is_ending or not _is_unused(connection)
            ):
                connection.shutdown()

    async def _wait(self, timeout_s: float, *, until_idle: bool = False) -> None:
        """Wait for a second signal, and with `until_idle` until no request is open."""
        ends_at = time.monotonic() + timeout_s
        while time.monotonic() < ends_at and not self._is_hurried:
            if (
                until_idle
                and not self.server_state.tasks
                and all(map(_is_unused, self.server_state.connections))
            ):
                return
            await asyncio.sleep(0.02)

    async def _wait_until_idle(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._is_hurried:
            os._exit(128 + sig)
        if self.should_exit:
            self._is_hurried = True
            return
        if sig == signal.SIGINT:
            self._accept_s = 0.0
        self._shutdown.requested.set()
        self.should_exit = True


def bind(address: str, *, write_stall_s: float) -> list[socket.socket]:
    """Return sockets that listen on every address of `HOST:PORT`. Port 0: any free one.

    An empty host means all addresses of this machine. A connection is lost when its peer accepts no data,
    or is gone, for `write_stall_s`. Raises OSError.
    """
    host, _, port_text = address.rpartition(":")
    if not port_text.isdecimal() or int(port_text) > 65_535:
        raise OSError("it is not HOST:PORT")
    port = int(port_text)
    found = dict.fromkeys(
        (family, place)
        for family, _, _, _, place in socket.getaddrinfo(
            host.strip("[]") or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )
    sockets: list[socket.socket] = []
    unusable: OSError | None = None
    try:
        for family, (name, _, *scope) in found:
            try:
                listener = _listener(family, (name, port, *scope), is_only=len(found) == 1)
            except OSError as error:
                # A host name can have addresses of a family that this machine does not use.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                unusable = error
            else:
                _bound_unsent_data(listener, write_stall_s)
                sockets.append(listener)
                port = listener.getsockname()[1]
        if unusable is not None and not sockets:
            raise unusable
    except OSError:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def _listener(family: int, place: tuple[object, ...], *, is_only: bool) -> socket.socket:
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not is_only:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _bound_unsent_data(listener: socket.socket, write_stall_s: float) -> None:
    """Set options that the connections inherit, where the platform has them.

    Without them, the kernel queues up to 4 MiB for a slow reader, and sends to a peer that is gone for 15
    minutes. A stream's few bytes per second do not fill a buffer in this time, so nothing else notices it.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = max(1, int(write_stall_s * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Return False for responses that are cut off: text has no other way to tell that a stream failed."""
    return record.msg != "ASGI callable returned without completing response."


def _is_unused(connection: object) -> bool:
    """Return whether no request has arrived on a connection yet. A drain does not wait for it."""
    return isinstance(connection, HttpToolsProtocol) and connection.cycle is None


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _raise_descriptor_limit(max_connections: int) -> int:
    """Raise the limit of open files as far as possible. Return how many connections it allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS may report no limit although it has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return max_connections
    fitting = max(1, soft - MAX_EXCESS - RESERVED_DESCRIPTORS)
    if fitting < max_connections:
        logger.warning(
            "max_connections is %d, but the limit of %d open files (ulimit -n) has room for %d: "
            "raise this limit, or lower max_connections",
            max_connections,
            soft,
            fitting,
        )
    return min(fitting, max_connections)
