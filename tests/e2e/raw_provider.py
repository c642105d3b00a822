"""A provider on a raw socket, which can violate HTTP."""

import asyncio
import socket
import ssl
import threading
import time
from contextlib import suppress

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class RawProvider:
    """Accepts connections and lets `script(reader, writer)` answer each request's head."""

    def __init__(self, script, ssl_context=None):
        self._script = script
        self._ssl = ssl_context
        self.ended_at = asyncio.get_running_loop().create_future()
        self.received = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._ssl)
        scheme = "https" if self._ssl else "http"
        self.url = f"{scheme}://localhost:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _answer(self, reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            await self._script(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            if not self.ended_at.done():
                self.ended_at.set_result(time.monotonic())
            writer.transport.abort()


async def wait_for_end(reader):
    while await reader.read(65536):
        pass


class ThreadProvider:
    """Answers each request with `script(socket)`, in threads, so that its work does not use the event loop."""

    def __init__(self, script):
        self._script = script

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection, suppress(OSError):
            while b"}" not in connection.recv(65536):  # small requests arrive whole
                pass
            self._script(connection)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
