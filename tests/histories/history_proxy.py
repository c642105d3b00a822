"""A TCP proxy between a caller and a server whose connections can be cut."""

import asyncio
from contextlib import suppress


class Wire:
    """Forwards bytes between one caller and the server at `address`.

    An async context manager. The caller connects to `target`. It may connect again after a cut.
    """

    refuses = False
    """Whether new connections are closed."""

    def __init__(self, address):
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._tasks = set()
        self._writers = set()
        self._passes = asyncio.Event()
        self._passes.set()

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
        # The task of a connection that was accepted just now has not begun.
        self.refuses = True
        for _ in range(3):
            await asyncio.sleep(0)

    def cut(self):
        """Reset the current connections on both sides."""
        for writer in list(self._writers):
            writer.transport.abort()

    def hold(self):
        """Forward nothing until `release`."""
        self._passes.clear()

    def release(self):
        self._passes.set()

    async def _accept(self, reader, writer):
        if self.refuses:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        self._tasks.add(task)
        both = [writer]
        self._writers.add(writer)
        try:
            try:
                onward_reader, onward = await asyncio.open_connection(self._host, self._port)
            except OSError:  # the server is gone
                return
            both.append(onward)
            self._writers.add(onward)
            # Python 3.11 and 3.12 log an error if the task of a connection ends with a cancellation.
            with suppress(asyncio.CancelledError):
                await asyncio.gather(self._pass(reader, onward), self._pass(onward_reader, writer))
        finally:
            self._tasks.discard(task)
            for each in both:
                each.transport.abort()
                self._writers.discard(each)

    async def _pass(self, reader, writer):
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
