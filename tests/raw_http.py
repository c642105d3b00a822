"""HTTP over raw sockets, and servers for it."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager

import uvloop

from tokenwire_edge.http.shutdown import Shutdown
from tokenwire_edge.serving import Server, bind, config_of
from tokenwire_edge.settings import Settings


class Edge:
    """An application on a real uvicorn, in a thread."""

    def __init__(self, app, **settings):
        self.app = app
        settings = Settings(listen="127.0.0.1:0", **settings)
        sockets = bind(settings.listen, write_stall_s=settings.write_stall_s)
        self.address = sockets[0].getsockname()
        self.server = Server(config_of(app, settings), Shutdown(), accept_s=0.0, grace_s=0.1)
        self._thread = threading.Thread(target=self._run, args=(sockets,))
        self._thread.start()
        while not self.server.started:
            time.sleep(0.002)

    def _run(self, sockets):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self.server._serve(sockets))

    def stop(self):
        self.server.should_exit = True
        self._thread.join()

    @contextmanager
    def connection(self, sent=b"", *, receive_buffer=None):
        with socket.socket() as connection:
            connection.settimeout(20)
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.connect(self.address)
            connection.sendall(sent)
            yield connection

    def wait_until(self, condition):
        ends = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < ends
            time.sleep(0.005)

    @property
    def connections(self):
        return len(self.server.server_state.connections)


@contextmanager
def serving(app, **settings):
    edge = Edge(app, **settings)
    try:
        yield edge
    finally:
        edge.stop()


def head(path="/", method="GET", *headers):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: edge", *headers, "", ""]).encode()


class Response:
    def __init__(self, file):
        self.status = int(file.readline().split()[1])
        self.headers = {}
        while line := file.readline().decode().strip():
            name, _, value = line.partition(": ")
            self.headers[name] = value
        self.body = b""
        if "content-length" in self.headers:
            self.body = file.read(int(self.headers["content-length"]))
        else:
            while size := int(file.readline(), 16):
                self.body += file.read(size)
                file.readline()
            file.readline()

    @property
    def problem(self):
        """Status and reason. Fails if it is no complete problem that closes the connection."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["connection"] == "close"
        assert self.headers["x-content-type-options"] == "nosniff"
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        return self.status, problem["reason"]


def responses(connection):
    """All responses until the connection is closed."""
    found = []
    with connection.makefile("rb") as file:
        while file.peek(1):
            found.append(Response(file))
    return found
