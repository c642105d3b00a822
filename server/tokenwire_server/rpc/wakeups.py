"""A workaround for how grpc.aio wakes its event loop. It depends on the internals of gRPC."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MAX_WAKEUPS = 64 * 1024


class _WakeupSocket(socket.socket):
    def recv(self, bufsize: int, flags: int = 0) -> bytes:  # noqa: ARG002  # gRPC asks for one byte
        return super().recv(MAX_WAKEUPS, flags)


@contextmanager
def drained_wakeups() -> Iterator[None]:
    """Let the event loop take all wake-ups at once, if grpc.aio is initialized within the block.

    A thread of gRPC queues each finished operation and writes one byte to a socket. The event loop reads
    one byte, handles the whole queue, and leaves the other bytes. When many operations finish in one turn
    of the loop, the socket's buffer fills at 278 bytes. The thread then blocks until three quarters of
    them are read, one in each turn, and meanwhile no operation of any call finishes: with two providers
    that send as fast as they can, writes to all callers took 250 to 450 ms (grpcio 1.83).

    This is for a process with one event loop. With several, an operation of a closed loop stops the handling
    of the queue, which then waits for the next byte.

    A version of gRPC that wakes its loop in another way creates no socket here, and nothing changes.
    """
    create = socket.socketpair

    def socketpair(*arguments: Any, **options: Any) -> tuple[socket.socket, socket.socket]:
        reading, writing = create(*arguments, **options)
        family, kind, protocol = reading.family, reading.type, reading.proto
        return _WakeupSocket(family, kind, protocol, fileno=reading.detach()), writing

    socket.socketpair = socketpair
    try:
        yield
    finally:
        socket.socketpair = create
