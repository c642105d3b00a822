"""A real server process behind TLS, and ways to connect to it."""

import asyncio
import os
import socket
import ssl
import time
from contextlib import contextmanager

import grpc
import grpc.aio
import pytest
from e2e_certificates import Authority, TlsFiles

from tokenwire.v1 import caller_pb2
from tokenwire_server.simulator import generated_text

AUTHORITY, STRANGER = Authority(), Authority("stranger")
SERVED = AUTHORITY.issue()
TENANT = AUTHORITY.issue_to_client(uris=("tokenwire://tenant/acme",))
NEWS_S = 3.0
"""Time limit for detecting a change: a second, and more if tests share the machine."""


class Served:
    """A server process behind TLS, and connections to it."""

    def __init__(self, files, process, address):
        self.files = files
        self.process = process
        self.address = address.replace("127.0.0.1", "localhost")

    def channel(self, pair=None, *, authority=AUTHORITY, options=()):
        """Return a separate connection."""
        shown = () if pair is None else (pair.key, pair.cert)
        return grpc.aio.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(authority.pem, *shown),
            options=[("grpc.use_local_subchannel_pool", 1), *options],
        )

    def handshake(self, context):
        """Do a TLS handshake and return the negotiated parameters. Raises the errors of `ssl`."""
        host, _, port = self.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=5) as wire:
            with context.wrap_socket(wire, server_hostname=host) as wrapped:
                return wrapped.version(), wrapped.selected_alpn_protocol()

    def shown(self):
        """Return the certificate that a new connection receives."""
        host, _, port = self.address.partition(":")
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port)), timeout=5))

    async def wait_until_shown(self, pair):
        began = time.monotonic()
        while await asyncio.to_thread(self.shown) != pair.der:
            assert time.monotonic() - began < NEWS_S, "the old certificate is still shown"
            await asyncio.sleep(0.02)

    def log(self):
        return os.pread(self.process.log.fileno(), 2**20, 0).decode()


@contextmanager
def serving(start, simulator, folder, *, client_ca=None):
    """Start a server with its files in a folder, and the simulator as its providers."""
    files = TlsFiles(folder, SERVED, client_ca=client_ca)
    flags = ("serve", "--listen", "127.0.0.1:0", *files.flags)
    environ = simulator.environ() | {"TOKENWIRE_LOG_STREAMS": "false"}
    with start(*flags, env=environ) as (process, address):
        yield Served(files, process, address)


def text_of(tokens):
    return "".join(generated_text(tokens))


async def caller(channel, timeout=10):
    """Return the caller as the server sees it."""
    call = channel.unary_unary(
        "/tokenwire.v1.CallerService/GetCaller",
        response_deserializer=caller_pb2.Caller.FromString,
    )
    return await call(b"", timeout=timeout)


async def refused(channel):
    """Return the error of a connection that fails."""
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller(channel, timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    return caught.value.details()


def client_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=AUTHORITY.pem.decode())
    context.set_alpn_protocols(["h2"])
    return context
