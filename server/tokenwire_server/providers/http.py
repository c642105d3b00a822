"""The HTTP client of all providers: aiohttp behind httpx2's transport interface, used by the SDKs.

It replaces the SDKs' own transports because every token passes through it, and because it omits:

- redirects, which could send the prompt and the key to another host,
- proxies from the environment,
- cookies, which all tenants would share,
- retries,
- headers other than SENT_HEADERS and the configured ones, because the SDKs add headers from the
  environment for any server,
- a limit on the pool, because the number of streams is limited on admission, and a full pool would look
  like a slow provider.

Bodies are read from aiohttp directly, without httpx2's layers.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import aiohttp
import httpx2
from aiohttp.connector import Connection

from .. import descriptors
from ..telemetry.trace_context import provider_headers
from .body import Body
from .decode.errors import retry_delay
from .framing import MAX_HEADER_BYTES, BoundedConnector
from .inflate import BodyError

RESPONSE = "tokenwire.aiohttp_response"
"""Key in `httpx2.Response.extensions` of the aiohttp response, for reading the body without layers."""

KEEPALIVE_S = 15.0
"""How long an idle connection is kept. Less than providers' front ends keep it: a POST on a connection that
the other side just closed fails and is not repeated."""
READ_BUFFER_BYTES = 16 * 1024
"""Bytes that are received but not read yet. Beyond twice as many, or 1,024 chunks, the connection pauses."""
ERROR_BODY_S = 2.0
MAX_ERROR_BODY_BYTES = 64 * 1024
"""Bounds on reading the body of an error response. Without a body, the status decides."""

SENT_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "anthropic-version",
        "authorization",
        "content-type",
        "openai-organization",
        "openai-project",
        "user-agent",
    }
)


class RequestState:
    """Whether a request was sent.

    A kept-alive connection keeps the context in which it was made, so this object refers to nothing else.
    """

    __slots__ = ("is_sent",)

    def __init__(self) -> None:
        self.is_sent = False


request_state: ContextVar[RequestState] = ContextVar("request_state")
"""The state of the request that the current task sends. A context variable, because neither the SDKs nor
httpx2 pass an object of ours from the caller of `post` to the transport."""


class ConnectTimedOut(httpx2.ConnectTimeout):
    """Connecting took longer than `limit_s`, which is `limits.upstream_connect_s`."""

    def __init__(self, limit_s: float, request: httpx2.Request) -> None:
        self.limit_s = limit_s
        super().__init__(type(self).__name__, request=request)


class Connections:
    """The connections to all providers. Sends requests and returns the heads of their responses.

    `connect_s` bounds name lookup, TCP and TLS together.
    """

    def __init__(self, *, connect_s: float) -> None:
        self._connect_s = connect_s
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_record_sent)
        self._session = aiohttp.ClientSession(
            connector=BoundedConnector(
                limit=0,
                keepalive_timeout=KEEPALIVE_S,
                socket_factory=_new_socket,
                ssl=ssl.create_default_context(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
            trust_env=False,
            response_class=_Response,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            trace_configs=[tracing],
        )

    async def send(
        self,
        request: httpx2.Request,
        headers: Sequence[tuple[str, str]],
        query: Mapping[str, str],
    ) -> httpx2.Response:
        """Send a request with these headers, and with these parameters added to its URL.

        Cancellation aborts the connection, at any point. The caller must bound the wait for the response.
        The body of a success is not read.
        """
        try:
            response = await self._session.request(
                request.method,
                str(request.url),
                params=query or None,
                headers=headers,
                data=await request.aread() or None,
                allow_redirects=False,
            )
        except TimeoutError as error:
            raise ConnectTimedOut(self._connect_s, request) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx2.ConnectError(type(error).__name__, request=request) from error
        except aiohttp.ClientError as error:
            raise httpx2.RemoteProtocolError(type(error).__name__, request=request) from error
        if 200 <= response.status < 300:
            return httpx2.Response(
                status_code=response.status, stream=_Unread(), extensions={RESPONSE: response}
            )
        return httpx2.Response(
            status_code=response.status,
            headers={
                name: response.headers[name]
                for name in retry_delay.HEADERS
                if name in response.headers
            },
            content=await _error_body(response),
        )

    async def aclose(self) -> None:
        await self._session.close()


class ProviderTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of one provider's SDK, with the configured headers and query parameters.

    Of the SDK's headers only SENT_HEADERS are sent. Without `sends_key` its `Authorization` is not sent. The
    trace context of the current task is added.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        sends_key: bool,
    ) -> None:
        self._connections = connections
        self._headers = list(headers.items())
        self._query = query
        configured = {name.lower() for name in headers}
        self._sent = SENT_HEADERS - configured - (frozenset() if sends_key else {"authorization"})

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = [
            (name, value)
            for name, value in request.headers.multi_items()
            if name.lower() in self._sent and value
        ]
        headers += self._headers
        headers += provider_headers.get()
        return await self._connections.send(request, headers, self._query)


def isolated_client(transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncClient:
    """Return a client that sends nothing of the environment, and keeps no cookies.

    It has no time limits: each wait has a limit of its own.
    """
    return httpx2.AsyncClient(
        transport=transport,
        headers={"Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none: all tenants share it
        timeout=None,
        follow_redirects=False,
        trust_env=False,
    )


def _new_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket to a provider, if enough descriptors are left for callers and the database.

    Otherwise raises OSError with EMFILE. The system assigns the lowest free number, so a high number means
    that few are left.
    """
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    if made.fileno() >= descriptors.limit() - descriptors.HEADROOM:
        made.close()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return made


async def _record_sent(*_: object) -> None:
    state = request_state.get(None)
    if state is not None:
        state.is_sent = True


def release(response: aiohttp.ClientResponse) -> None:
    """Return the connection to the pool if the response was read to its end. Otherwise abort it."""
    if response.content.is_eof():
        response.release()
    else:
        response.close()


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    """Return what is received of the body within ERROR_BODY_S, cut off after MAX_ERROR_BODY_BYTES."""
    received = bytearray()
    try:
        with suppress(aiohttp.ClientError, BodyError, TimeoutError):
            async with asyncio.timeout(ERROR_BODY_S):
                body = Body(response)
                while len(received) < MAX_ERROR_BODY_BYTES and (data := await body.read()):
                    received += data
    finally:
        release(response)
    return bytes(received[:MAX_ERROR_BODY_BYTES])


class _Response(aiohttp.ClientResponse):
    """aiohttp's response with two fixes (for 3.14.5). A test for each shows the bug."""

    _watched: asyncio.Future[None] | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Start, and fail the body when the connection is lost. After invalid chunked framing aiohttp does
        not do this, and `read` would wait forever.
        """
        await super().start(connection)
        protocol = connection.protocol
        if protocol is not None and (closed := protocol.closed) is not None:
            closed.add_done_callback(self._connection_lost)
            self._watched = closed
        return self

    def release(self) -> Any:
        """Release, and stop watching the connection, which would otherwise refer to all its responses."""
        self._unwatch()
        return super().release()

    def _connection_lost(self, _: asyncio.Future[None]) -> None:
        if not self.content.is_eof() and self.content.exception() is None:
            self.content.set_exception(
                aiohttp.ClientPayloadError("the connection ended before the end of the body")
            )

    def close(self) -> None:
        """Close and abort. Without the abort, aiohttp would first send the rest of the prompt, and over TLS
        wait up to 30 s for the other side.
        """
        self._unwatch()
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.abort()
        super().close()

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._watched.remove_done_callback(self._connection_lost)
            self._watched = None


class _Unread(httpx2.AsyncByteStream):
    """Placeholder for a body that is read from aiohttp."""
