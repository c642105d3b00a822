"""The one HTTP client that every provider's SDK uses: aiohttp below httpx2's transport interface.

The SDKs bring such a transport themselves. This one is our own because the token's path runs through
it, and because of what it leaves out: no redirects (one would send the prompt and the key to another
host), no proxies from the environment, no cookies (they would be shared by all tenants), no retries,
no headers but those named here (the SDKs add what the environment tells them, to any server), and no
pool limit, because streams are bounded where they are admitted and a full pool would look like a slow
provider. Bytes are read from aiohttp directly, below httpx2's layers.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import aiohttp
import httpx2
from aiohttp.connector import Connection

from .. import descriptors
from .body import Body
from .framing import MAX_HEADER_BYTES, BoundedConnector
from .inflate import BodyError

RESPONSE = "tokenwire.aiohttp_response"
"""Key in `httpx2.Response.extensions` of the aiohttp response, for reading the body without layers."""

KEEPALIVE_S = 15.0
"""How long an idle connection is kept. Short of what providers' front ends keep: a POST on a
connection that the other side just closed fails and is not repeated."""
READ_BUFFER_BYTES = 16 * 1024
"""Bytes that are received and not read yet. Past twice as many, or 1,024 chunks, the connection pauses."""
ERROR_BODY_S = 2.0
MAX_ERROR_BODY_BYTES = 64 * 1024
"""How long and how much is read of the body of an error. Its status counts in any case."""

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
    """Whether a request was sent. Contexts of connections keep it, so it refers to nothing else."""

    __slots__ = ("is_sent",)

    def __init__(self) -> None:
        self.is_sent = False


request_state: ContextVar[RequestState] = ContextVar("request_state")
"""The state of the request that the current task sends. A context variable, because neither the SDKs nor
httpx2 pass an object of ours from the caller of `post` to the transport."""


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends a request whole and returns the answer's head; the body of a success is left to be read.

    Cancelled at any point, it aborts the connection. `connect_s` bounds name lookup, TCP and TLS
    together; waiting for the answer is bounded by the caller.
    """

    def __init__(self, *, connect_s: float) -> None:
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

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._session.request(
                request.method,
                str(request.url),
                headers=[
                    (name, value)
                    for name, value in request.headers.multi_items()
                    if name.lower() in SENT_HEADERS and value
                ],
                data=await request.aread() or None,
                allow_redirects=False,
            )
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(type(error).__name__, request=request) from error
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
                "content-type": "application/json",  # whatever it says: the SDKs then try
                "retry-after": response.headers.get("retry-after", ""),
            },
            content=await _error_body(response),
        )

    async def aclose(self) -> None:
        await self._session.close()


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
    """Give the connection back when its answer was read to the end; otherwise abort it, at once."""
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
    """aiohttp's response, mended in two places (3.14.5); each has a test that shows the need."""

    _watched: asyncio.Future[None] | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Also fail the body when the connection is lost: for broken chunked framing aiohttp does not,
        and its reader would wait for ever.
        """
        await super().start(connection)
        protocol = connection.protocol
        if protocol is not None and (closed := protocol.closed) is not None:
            closed.add_done_callback(self._connection_lost)
            self._watched = closed
        return self

    def release(self) -> Any:
        """Also watch the connection no more: kept alive, it would keep every response it ever had."""
        self._unwatch()
        return super().release()

    def _connection_lost(self, closed: asyncio.Future[None]) -> None:
        if not closed.cancelled():
            closed.exception()
        if not self.content.is_eof() and self.content.exception() is None:
            self.content.set_exception(
                aiohttp.ClientPayloadError("the connection ended inside the body")
            )

    def close(self) -> None:
        """Also abort: a mere close first sends what is left of the prompt, and over TLS waits up to
        30 s for the other side's goodbye.
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
    """Stands for a body that is read from aiohttp."""
