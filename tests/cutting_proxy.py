"""A TCP proxy that cuts connections after a number of bytes from the server, or forwards nothing more."""

import socket
import threading
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards connections to a server. Without cuts, it forwards everything."""

    def __init__(self, url):
        target = urlsplit(url)
        self._target = (target.hostname, target.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._remaining = []
        self._open = set()
        self._may_forward = threading.Event()
        self._may_forward.set()
        self.connection_count = 0
        self.discards = False
        """Connections stay open, and everything that arrives is dropped."""
        self.cuts = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, byte_counts):
        """Close the open connections, then cut each new one after the next of these counts of bytes."""
        with self._lock:
            self._remaining = list(byte_counts)
            self.cuts = 0
            connections = list(self._open)
        for connection in connections:
            _shut(connection)

    def freeze(self):
        """Keep the connections open, and accept nothing more from either side."""
        self._may_forward.clear()

    def close(self):
        self._may_forward.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()
        self.cut([])

    def _accept(self):
        with suppress(OSError):  # the listener was closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, downstream):
        with downstream, suppress(OSError):
            with socket.create_connection(self._target) as upstream:
                with self._lock:
                    self._open |= {downstream, upstream}
                    self.connection_count += 1
                up = threading.Thread(
                    target=self._forward, args=(downstream, upstream), daemon=True
                )
                up.start()
                try:
                    self._forward_and_cut(upstream, downstream)
                finally:
                    _shut(upstream)
                    _shut(downstream)
                    up.join()
                    with self._lock:
                        self._open -= {downstream, upstream}

    def _forward_and_cut(self, upstream, downstream):
        remaining = None
        while data := upstream.recv(65536):
            self._may_forward.wait()
            if self.discards:
                continue
            if remaining is None:  # a connection that is opened and not used takes no count
                with self._lock:
                    remaining = self._remaining.pop(0) if self._remaining else float("inf")
            downstream.sendall(data[: min(len(data), remaining)])
            remaining -= len(data)
            if remaining <= 0:
                with self._lock:
                    self.cuts += 1
                return

    def _forward(self, source, sink):
        with suppress(OSError):
            while data := source.recv(65536):
                self._may_forward.wait()
                if not self.discards:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def _shut(connection):
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_proxy(url):
    """Yield a CuttingProxy before the server at a URL."""
    proxy = CuttingProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
