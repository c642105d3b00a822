"""What both clients report if no connection can be made, on real sockets. See `test_tls.py` for TLS."""

import asyncio
import socket
import socketserver
import threading
from contextlib import contextmanager, suppress

import pytest

import tokenwire
from tokenwire import ConnectFailure

from ..conftest import LIMIT_S

FAST = [("grpc.min_reconnect_backoff_ms", 500)]
"""A connection attempt may take half a second."""


@contextmanager
def listening(greeting):
    """Listen on a port, send these bytes to each connection, and read until it is closed."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            with suppress(OSError):
                self.request.sendall(greeting)
                while self.request.recv(1000):
                    pass

    class Server(socketserver.ThreadingTCPServer):
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.01,)).start()
        yield f"127.0.0.1:{listener.server_address[1]}"
        listener.shutdown()


def call_in_thread(target, **how):
    with tokenwire.Client(target, max_retries=0, options=FAST, **how) as client:
        client.list_models()


async def failure_of(target, **how):
    """Return the message and the cause, which are the same for both clients, calls and streams."""
    errors = []
    async with (
        asyncio.timeout(LIMIT_S),
        tokenwire.AsyncClient(target, max_retries=0, options=FAST, **how) as client,
    ):
        for call in (
            client.list_models(),
            client.chat_stream("m", "Hi").__aenter__(),
            client.resume("st", 7).__aenter__(),
        ):
            with pytest.raises(tokenwire.ConnectionLost) as caught:
                await call
            errors.append(caught.value)
        with pytest.raises(tokenwire.ConnectionLost) as caught:
            await asyncio.to_thread(call_in_thread, target, **how)
        errors.append(caught.value)
    (said,) = {(error.message, error.failure) for error in errors}
    assert all(error.detail and error.detail not in error.message for error in errors)
    assert {error.attempts for error in errors} == {1}
    return said


async def test_a_refused_connection():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        assert await failure_of(target) == (
            f"cannot connect to {target}: the connection was refused: no server listens there",
            ConnectFailure.REFUSED,
        )


async def test_a_unix_socket_that_does_not_exist(tmp_path):
    _, failure = await failure_of(f"unix:{tmp_path}/missing.sock")
    assert failure is ConnectFailure.REFUSED


async def test_a_host_name_that_does_not_exist():
    target = "tokenwire.invalid:50051"
    assert await failure_of(target, tls=False) == (
        f"cannot connect to {target}: the host name could not be resolved",
        ConnectFailure.NAME_NOT_FOUND,
    )


@pytest.mark.parametrize("tls", [False, True])
async def test_a_host_that_does_not_answer(tls):
    with listening(b"") as target:
        assert await failure_of(target, tls=tls) == (
            f"cannot connect to {target}: the host did not answer in time",
            ConnectFailure.NO_ANSWER,
        )


@pytest.mark.parametrize(
    "greeting",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"],
)
async def test_a_port_of_another_protocol(greeting):
    with listening(greeting) as target:
        assert await failure_of(target) == (
            f"cannot connect to {target}: the target is not a gRPC server: it does not speak HTTP/2",
            ConnectFailure.NO_GRPC,
        )


async def test_the_deadline_can_pass_before_a_connection_is_made():
    with listening(b"") as target:
        async with tokenwire.AsyncClient(target) as client:
            with pytest.raises(TimeoutError) as caught:
                await client.list_models(timeout=0.3)
    assert isinstance(caught.value, tokenwire.DeadlineExceeded)
