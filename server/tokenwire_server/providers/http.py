"""The HTTP client of all providers: one aiohttp session, without what aiohttp and the SDKs add by default:

- redirects, which could send the prompt and the key to another host,
- proxies from the environment,
- cookies, which all tenants would share,
- retries,
- headers other than those of the SDK that `sdk` selects, and the configured ones,
- a limit on the pool, because the number of streams is limited on admission, and a full pool would look
  like a slow provider.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection

from .. import descriptors
from ..telemetry.trace_context import provider_headers
from .backlog import Backlog
from .body import Body
from .decode.errors import retry_delay
from .framing import MAX_HEADER_BYTES, BoundedConnector
from .inflate import BodyError

KEEPALIVE_S = 15.0
"""How long an idle connection is kept. Less than providers' front ends keep it: a POST on a connection that
the other side just closed fails and is not repeated."""
READ_BUFFER_BYTES = 16 * 1024
"""Bytes that are received but not read yet. Beyond twice as many, or 1,024 chunks, the connection pauses."""
ERROR_BODY_S = 2.0
MAX_ERROR_BODY_BYTES = 64 * 1024
"""Bounds on reading the body of an error response. Without a body, the status decides."""


class StatusError(Exception):
    """The response has a status that is not a success."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """`headers` are those of `retry_delay.HEADERS`. `body` is cut off after MAX_ERROR_BODY_BYTES."""
        super().__init__(f"HTTP status {status}")
        self.status = status
        self.headers = headers
        self.body = body


class ConnectTimedOut(Exception):
    """Connecting took longer than `limit_s`, which is `limits.upstream_connect_s`."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"connecting took longer than {limit_s:g} s")
        self.limit_s = limit_s


RequestError = (StatusError, ConnectTimedOut, aiohttp.ClientError)
"""Exceptions for a request without a successful response."""


class Connections:
    """The connections to all providers. Sends requests and returns the heads of their responses.

    `connect_s` bounds name lookup, TCP and TLS together.
    """

    def __init__(self, *, connect_s: float) -> None:
        self._connect_s = connect_s
        self.backlog = Backlog()
        """The backlog shared by all answers."""
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
        )

    async def post(
        self,
        url: str,
        headers: dict[str, str],
        body: bytes,
        *,
        query: Mapping[str, str] | None = None,
        on_sent: Callable[[], object] | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request, and return its response without the body if the status is a success.

        The trace context of the current task is added to the headers. `on_sent` is called when the first
        bytes are written. Cancellation aborts the connection, at any point. The caller must bound the wait
        for the response. Raises one of RequestError.
        """
        try:
            response = await self._session.post(
                url,
                params=query,
                headers=headers | dict(provider_headers.get()),
                data=_RequestBody(body, on_sent),
                allow_redirects=False,
            )
        except TimeoutError as error:
            raise ConnectTimedOut(self._connect_s) from error
        if 200 <= response.status < 300:
            return response
        received = response.headers
        delays = {name: received[name] for name in retry_delay.HEADERS if name in received}
        raise StatusError(response.status, delays, await _error_body(response))

    async def aclose(self) -> None:
        await self._session.close()


class Sender:
    """Sends the requests of one provider with one key: to paths below `base_url`, with these headers and
    query parameters.
    """

    def __init__(
        self,
        connections: Connections,
        base_url: str,
        headers: dict[str, str],
        query: Mapping[str, str],
    ) -> None:
        self._connections = connections
        self.backlog = connections.backlog
        self._base_url = base_url.rstrip("/")
        self._headers = headers
        self._query = query

    async def post(
        self,
        path: str,
        body: bytes,
        *,
        accept: str,
        on_sent: Callable[[], object] | None = None,
    ) -> aiohttp.ClientResponse:
        """See `Connections.post`."""
        return await self._connections.post(
            self._base_url + path,  # yarl keeps the parsed URLs of the last texts
            self._headers | {"Accept": accept},
            body,
            query=self._query,
            on_sent=on_sent,
        )


class _RequestBody(aiohttp.BytesPayload):
    """The body of a request. aiohttp writes it together with the head."""

    def __init__(self, body: bytes, on_sent: Callable[[], object] | None) -> None:
        super().__init__(body)
        self._on_sent = on_sent

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        if self._on_sent is not None:
            self._on_sent()
        await super().write_with_length(writer, content_length)


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


def release(response: aiohttp.ClientResponse) -> None:
    """Return the connection to the pool if the response was read to its end. Otherwise abort it."""
    if response.content.is_eof():
        response.release()
    else:
        response.close()


def forget_head(response: aiohttp.ClientResponse) -> None:
    """Drop the headers of a response and of its request: 3 KiB of each open answer."""
    if isinstance(response, _Response):
        response.forget_head()


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

    def forget_head(self) -> None:
        """Drop the headers, and what refers to the request."""
        del self._headers, self._raw_headers, self._request_info, self._traces

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
