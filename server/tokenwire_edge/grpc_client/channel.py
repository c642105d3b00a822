"""The connections to the server, and the calls on them."""

from __future__ import annotations

import asyncio
import logging
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
from .status import CONTENT_TYPE

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""Connections to the server. Another one is opened when the others have no place for a stream."""

Metadata = Sequence[tuple[str, str]]


class Channel:
    """Calls to one server. It connects with the first call, and again after a connection was lost.

    A lost connection ends its calls with ConnectionLost. There is no delay between attempts to connect:
    all calls that wait share one attempt, which takes at most `connect_timeout_s`.
    """

    def __init__(self, settings: ConnectionSettings, *, connect_timeout_s: float) -> None:
        self.target = settings.target
        self._address = parse_target(settings.target)
        tls = settings.tls
        self._tls = None if tls is None else _tls_context(tls)
        self._server_name = None if tls is None else tls.server_name or self._address[0]
        self._authority = authority(*self._address)
        self._connect_timeout_s = connect_timeout_s
        self._connections: list[Connection] = []
        self._connecting: asyncio.Task[None] | None = None
        self._last_failure: str | None = None
        """Why the last attempt to connect failed. Logged once, not with each attempt."""
        self._is_closed = False

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
        for _ in range(MAX_CONNECTIONS + 1):
            if self._is_closed:
                raise _stopping()
            for connection in self._connections:
                if connection.has_room:
                    return connection
            self._connections = [each for each in self._connections if not each.is_lost]
            if sum(each.is_usable for each in self._connections) >= MAX_CONNECTIONS:
                break
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
            # More calls may wait for this connection than it has places.
            await asyncio.shield(self._connecting)
        raise ConnectionLost(
            "all connections to the server are in use", code=grpc.StatusCode.UNAVAILABLE
        )

    async def close(self) -> None:
        """End all calls with ConnectionLost, and close the connections."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        for connection in self._connections:
            connection.close()

    async def _connect(self) -> None:
        """Add a connection. Raises ConnectionLost. When it returns or raises, the state is up to date."""
        try:
            connection = await self._open()
        except ConnectionLost as error:
            if error.message != self._last_failure and not self._is_closed:
                logger.warning("%s: %s", self.target, error.message)  # callers are not told why
            self._last_failure = error.message
            raise
        finally:
            self._connecting = None
        self._last_failure = None
        self._connections.append(connection)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        host, port = self._address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if port is None:
                    transport, connection = await loop.create_unix_connection(
                        Connection, host, ssl=self._tls, server_hostname=self._server_name
                    )
                else:
                    transport, connection = await loop.create_connection(
                        Connection, host, port, ssl=self._tls, server_hostname=self._server_name
                    )
                try:
                    self._check_protocol(transport)
                    await connection.ready
                except BaseException:
                    transport.abort()
                    raise
        except TimeoutError:
            raise self._unreachable(f"no answer within {self._connect_timeout_s:g} s") from None
        except (OSError, ssl.SSLError) as error:
            raise self._unreachable(_reason(error)) from error
        except asyncio.CancelledError:  # by `close`
            raise _stopping() from None
        return connection

    def _check_protocol(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            raise ConnectionError("it does not speak HTTP/2")

    def _unreachable(self, reason: str) -> ConnectionLost:
        return ConnectionLost(
            f"cannot connect to the server: {reason}", code=grpc.StatusCode.UNAVAILABLE
        )

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


def parse_target(target: str) -> tuple[str, int | None]:
    """Return host and port of a target, or the path of a socket and None.

    Of gRPC's name syntax these are supported: `host:port`, `dns:///host:port`, `ipv4:...`, `ipv6:...` with
    one address, and `unix:path`. Raises ValueError.
    """
    scheme, colon, rest = target.partition(":")
    if colon and scheme == "unix":
        return rest.removeprefix("//"), None
    if colon and scheme in ("dns", "ipv4", "ipv6"):
        target = rest.removeprefix("///")
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


def authority(host: str, port: int | None) -> bytes:
    """Return the pseudo-header `:authority` for a parsed target."""
    if port is None:
        return b"localhost"
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()


def _stopping() -> ConnectionLost:
    return ConnectionLost("the edge is stopping", code=grpc.StatusCode.UNAVAILABLE)


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


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"
    return error.strerror or str(error)
