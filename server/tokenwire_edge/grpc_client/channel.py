"""The calls to the server, or to several servers that share their streams."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from tempfile import NamedTemporaryFile

import grpc
from hpack import NeverIndexedHeaderTuple

from tokenwire import __version__
from tokenwire.connect.channel import Connection as ConnectionSettings
from tokenwire.connect.tls import TlsFiles
from tokenwire.errors import ConnectionLost, TokenwireError

from .call import Call
from .connection import Connection, Headers
from .pool import Address, ConnectionPool, authority
from .status import CONTENT_TYPE

RETRY_S = 1.0
"""Shortest time between attempts to connect to a server that failed, while another server answers."""

Metadata = Sequence[tuple[str, str]]


class Channel:
    """Calls to one server, or to several in turn. A lost connection ends its calls with ConnectionLost.

    A server that cannot be reached gets no calls while another one can be. In the meantime, attempts to
    connect to it delay no call.
    """

    def __init__(self, settings: ConnectionSettings, *, connect_timeout_s: float) -> None:
        self.target = settings.target
        addresses = parse_target(settings.target)
        tls = settings.tls
        self._tls = None if tls is None else _tls_context(tls)
        self._authority = authority(*addresses[0])
        self._pools = [
            ConnectionPool(
                address,
                self._tls,
                None if tls is None else tls.server_name or address[0],
                connect_timeout_s=connect_timeout_s,
            )
            for address in addresses
        ]
        self._next = 0
        self._probed_at = float("-inf")

    def stream(
        self, method: str, request: bytes, *, metadata: Metadata = (), timeout_s: float
    ) -> Call:
        """Return a call, to be entered with `async with`.

        `method` is `package.Service/Method`, `request` a serialized message.
        """
        return Call(self, self._headers(method, metadata, timeout_s), request, timeout_s)

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata = (), timeout_s: float
    ) -> bytes:
        """Return the serialized response of a method that has one. Raises TokenwireError."""
        async with self.stream(method, request, metadata=metadata, timeout_s=timeout_s) as call:
            messages: list[bytes] = []
            while batch := await call.read():
                messages += batch
            if len(messages) != 1:
                raise TokenwireError(
                    f"{method} returned {len(messages)} messages instead of one",
                    code=grpc.StatusCode.INTERNAL,
                )
            return messages[0]

    async def connection(self) -> Connection:
        """Return a connection with a place for a stream. Raises ConnectionLost."""
        number, self._next = self._next, (self._next + 1) % len(self._pools)
        in_turn = self._pools[number:] + self._pools[:number]
        failing = [pool for pool in in_turn if pool.is_failing]
        if failing and len(failing) < len(in_turn):
            self._probe(failing)
            in_turn = [pool for pool in in_turn if pool not in failing] + failing
        for pool in in_turn[:-1]:
            try:
                return await pool.connection()
            except ConnectionLost:
                continue
        return await in_turn[-1].connection()

    async def close(self) -> None:
        """End all calls with ConnectionLost, and close the connections."""
        await asyncio.gather(*(pool.close() for pool in self._pools))

    def _probe(self, pools: list[ConnectionPool]) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._probed_at + RETRY_S:
            self._probed_at = now
            for pool in pools:
                pool.probe()

    def _headers(self, method: str, metadata: Metadata, timeout_s: float) -> Headers:
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"http" if self._tls is None else b"https"),
            (b":path", b"/" + method.encode()),
            (b":authority", self._authority),
            (b"te", b"trailers"),
            (b"content-type", CONTENT_TYPE),
            (b"user-agent", b"tokenwire-edge/" + __version__.encode()),
            (b"grpc-timeout", _timeout(timeout_s)),
        ]
        # Keys: RFC 7541, section 7.1.3, keeps them out of the compression state that all calls share.
        headers += [
            NeverIndexedHeaderTuple(name.encode(), value.encode()) for name, value in metadata
        ]
        return headers


def parse_target(target: str) -> list[Address]:
    """Return the addresses of a target: host and port, or the path of a socket and None.

    Of gRPC's name syntax these are supported: `host:port`, `dns:///host:port`, `unix:path`, and `ipv4:...`
    and `ipv6:...` with any number of addresses. Raises ValueError.
    """
    scheme, colon, rest = target.partition(":")
    if colon and scheme == "unix":
        return [(rest.removeprefix("//"), None)]
    if colon and scheme in ("ipv4", "ipv6"):
        return [_parse_address(each) for each in rest.split(",")]
    return [_parse_address(rest.removeprefix("///") if colon and scheme == "dns" else target)]


def _parse_address(target: str) -> Address:
    host, colon, port = target.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"target: {target!r} is not HOST:PORT")
    if not host or "/" in host or "," in host:
        raise ValueError(f"target: {target!r} is not the address of one host: write HOST:PORT")
    host = host.removeprefix("[").removesuffix("]")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"target: {host!r} is not a host name") from None
    return host, int(port)


def _timeout(timeout_s: float) -> bytes:
    """Return a `grpc-timeout`: at most eight digits and a unit."""
    milliseconds = max(1, int(timeout_s * 1000))
    return b"%dm" % milliseconds if milliseconds < 10**8 else b"%dS" % (milliseconds // 1000)


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cadata=None if files.ca is None else files.ca.decode("ascii", "replace")
    )
    context.set_alpn_protocols(["h2"])
    if files.cert is not None and files.key is not None:
        with NamedTemporaryFile() as pair:  # ssl reads certificates only from files
            pair.write(files.cert + b"\n" + files.key)
            pair.flush()
            context.load_cert_chain(pair.name)
    return context
