"""The connections to one server."""

from __future__ import annotations

import asyncio
import logging
import ssl

import grpc

from tokenwire.errors import ConnectionLost

from .connection import Connection

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""Connections to a server. Another one is opened when the others have no place for a stream."""

Address = tuple[str, int | None]
"""Host and port, or the path of a socket and None."""


class ConnectionPool:
    """Connects with the first call, and again after a connection was lost.

    There is no delay between attempts to connect: all calls that wait share one attempt, which takes at most
    `connect_timeout_s`.
    """

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext | None,
        server_name: str | None,
        *,
        connect_timeout_s: float,
    ) -> None:
        self._address = address
        self._name = address[0] if address[1] is None else authority(*address).decode()
        self._tls = tls
        self._server_name = server_name
        self._connect_timeout_s = connect_timeout_s
        self._connections: list[Connection] = []
        self._connecting: asyncio.Task[None] | None = None
        self._last_failure: str | None = None
        """Why the last attempt to connect failed. Logged once, not with each attempt."""
        self._is_closed = False

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to connect failed."""
        return self._last_failure is not None

    def probe(self) -> None:
        """Start an attempt to connect, unless one has been started. No call waits for it."""
        if self._connecting is None and not self._is_closed:
            self._start_connecting()

    async def connection(self) -> Connection:
        """Return a connection with a place for a stream. Raises ConnectionLost."""
        for _ in range(MAX_CONNECTIONS + 1):
            if self._is_closed:
                raise _stopping()
            for connection in self._connections:
                if connection.has_room:
                    return connection
            self._connections = [each for each in self._connections if not each.is_lost]
            if sum(each.is_usable for each in self._connections) >= MAX_CONNECTIONS:
                break
            # More calls may wait for this connection than it has places.
            await asyncio.shield(self._connecting or self._start_connecting())
        raise ConnectionLost(
            "all connections to the server are in use", code=grpc.StatusCode.UNAVAILABLE
        )

    async def close(self) -> None:
        """End all calls with ConnectionLost, and close the connections."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        for connection in self._connections:
            connection.close()

    def _start_connecting(self) -> asyncio.Task[None]:
        self._connecting = task = asyncio.create_task(self._connect())
        task.add_done_callback(_retrieve)  # perhaps no call waits for it
        return task

    async def _connect(self) -> None:
        """Add a connection. Raises ConnectionLost. When it returns or raises, the state is up to date."""
        try:
            connection = await self._open()
        except ConnectionLost as error:
            if error.message != self._last_failure and not self._is_closed:
                logger.warning("%s: %s", self._name, error.message)  # callers are not told why
            self._last_failure = error.message
            raise
        finally:
            self._connecting = None
        self._last_failure = None
        self._connections.append(connection)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        host, port = self._address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if port is None:
                    transport, connection = await loop.create_unix_connection(
                        Connection, host, ssl=self._tls, server_hostname=self._server_name
                    )
                else:
                    transport, connection = await loop.create_connection(
                        Connection, host, port, ssl=self._tls, server_hostname=self._server_name
                    )
                try:
                    self._check_protocol(transport)
                    await connection.ready
                except BaseException:
                    transport.abort()
                    raise
        except TimeoutError:
            raise self._unreachable(f"no answer within {self._connect_timeout_s:g} s") from None
        except (OSError, ssl.SSLError) as error:
            raise self._unreachable(_reason(error)) from error
        except asyncio.CancelledError:  # by `close`
            raise _stopping() from None
        return connection

    def _check_protocol(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            raise ConnectionError("it does not speak HTTP/2")

    def _unreachable(self, reason: str) -> ConnectionLost:
        return ConnectionLost(
            f"cannot connect to the server: {reason}", code=grpc.StatusCode.UNAVAILABLE
        )


def authority(host: str, port: int | None) -> bytes:
    """Return the pseudo-header `:authority` for a parsed target."""
    if port is None:
        return b"localhost"
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()


def _stopping() -> ConnectionLost:
    return ConnectionLost("the edge is stopping", code=grpc.StatusCode.UNAVAILABLE)


def _retrieve(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"
    return error.strerror or str(error)
