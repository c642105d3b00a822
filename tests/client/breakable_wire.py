"""A small TCP proxy between a client and a server, whose connections a test can cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Iterator

CHUNK_BYTES = 65536
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Wire:
    """Forwards bytes both ways until the connection is cut. Each new connection is forwarded again."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._lengths: Iterator[int] = iter(())
        self._clients: dict[asyncio.StreamWriter, int | None] = {}
        """Open connections, each with the number of bytes that it still forwards. None: no limit."""
        self._carrying: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self.target = ""
        self.cuts = 0
        self.frozen = False
        """Connections stay open, and all bytes are dropped."""

    def cut(self) -> None:
        """Break every connection now; every other one with RST instead of FIN."""
        for client in tuple(self._clients):
            self._break(client)

    def break_after(self, lengths: Iterable[int]) -> None:
        """Break the open connection, and each one after it, when that many bytes were sent to its client.

        The break can be inside a frame. Connections after the last length stay open.
        """
        self._lengths = iter(lengths)
        for client in self._clients:
            self._clients[client] = next(self._lengths, None)

    async def down(self) -> None:
        """Break every connection, and refuse new ones."""
        assert self._listener is not None
        self._listener.close()
        self.cut()
        if self._carrying:
            await asyncio.wait(self._carrying)

    async def up(self) -> None:
        """Accept connections, after `down` at the same address."""
        host, _, port = self.target.rpartition(":")
        self._listener = await asyncio.start_server(
            self._carry, host or "127.0.0.1", int(port or 0)
        )
        self.target = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    def _break(self, client: asyncio.StreamWriter) -> None:
        if client in self._clients:
            del self._clients[client]
            self.cuts += 1
            if self.cuts % 2:
                handle = client.get_extra_info("socket")
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            client.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        self._clients[client] = next(self._lengths, None)
        try:
            from_server, to_server = await asyncio.open_connection(*self._server.split(":"))
        except OSError:
            self._break(client)
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, to_server))
                both.create_task(self._copy(from_server, client))
        except* OSError:
            pass
        finally:
            self._clients.pop(client, None)
            for end in (client, to_server):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(CHUNK_BYTES):
            if self.frozen:
                continue
            length = self._clients.get(sink)
            if length is not None:
                if len(data) > length:
                    sink.write(data[:length])
                    await sink.drain()
                    self._break(sink)
                    break
                self._clients[sink] = length - len(data)
            sink.write(data)
            await sink.drain()
        raise ConnectionError  # ends the other direction too


@contextlib.asynccontextmanager
async def wire_to(server: str) -> AsyncIterator[Wire]:
    wire = Wire(server)
    await wire.up()
    try:
        yield wire
    finally:
        await wire.down()
