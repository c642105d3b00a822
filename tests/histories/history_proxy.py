"""A TCP proxy between a caller and a server whose connections can be cut."""

import asyncio
from contextlib import suppress


class Wire:
    """Forwards bytes between one caller and the server at `address`.

    An async context manager. The caller connects to `target`. It may connect again after a cut.
    """

    def __init__(self, address):
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._tasks = set()
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.cut()
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self):
        """Reset the current connections on both sides."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        both = [writer]
        self._writers.add(writer)
        try:
            onward_reader, onward = await asyncio.open_connection(self._host, self._port)
            both.append(onward)
            self._writers.add(onward)
            await asyncio.gather(_pass(reader, onward), _pass(onward_reader, writer))
        finally:
            self._tasks.discard(task)
            for each in both:
                each.transport.abort()
                self._writers.discard(each)


async def _pass(reader, writer):
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
