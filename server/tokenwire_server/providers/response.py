"""The response to a request: its head, its body, and the connection on which it arrives."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp.connector import Connection
from aiohttp.streams import StreamReader


class Response:
    """A response whose body has not been read. Its owner must call `release` or `close`."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self,
        connection: Connection,
        status: int,
        headers: Mapping[str, str],
        content: StreamReader,
    ) -> None:
        """The names of `headers` are matched without regard to case."""
        self._connection: Connection | None = connection
        self.status = status
        self.headers = headers
        self.content = content

    def forget_head(self) -> None:
        """Drop the headers: 2 KiB of each open answer."""
        self.headers = {}

    def release(self) -> None:
        """Return the connection to the pool if the response was read to its end. Otherwise abort it."""
        connection = self._connection
        if connection is None:
            return
        transport = connection.transport
        is_over = self.content.is_eof()
        if not is_over or transport is None or transport.get_write_buffer_size():
            self.close()
            return
        self._connection = None
        connection.release()

    def close(self) -> None:
        """Abort the connection. Nothing that is left of the request is sent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            abort(connection)


def abort(connection: Connection) -> None:
    """Close a connection at once.

    aiohttp's `close` would first send the rest of the prompt, and over TLS wait up to 30 s for the other
    side.
    """
    if connection.transport is not None:
        connection.transport.abort()
    connection.close()
