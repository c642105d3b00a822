"""The HTTP client of all providers.

It sends requests over the connections of aiohttp's pool, without what HTTP clients add by default:
redirects, which could send the prompt and the key to another host, proxies of the environment, cookies, which
all tenants would share, and retries.

The pool has no limit: the number of streams is limited on admission, and a full pool would look like a slow
provider.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp

from .. import descriptors
from ..telemetry.trace_context import provider_headers
from .backlog import Backlog
from .body import Body
from .connection import ProviderConnection
from .decode.errors import retry_delay
from .endpoint import Endpoint
from .inflate import BodyError
from .response import Response

KEEPALIVE_S = 15.0
"""How long an idle connection is kept. Less than providers' front ends keep it: a POST on a connection that
the other side just closed fails and is not repeated."""
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
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s)
        self._connector = _Pool(
            limit=0,
            keepalive_timeout=KEEPALIVE_S,
            socket_factory=_new_socket,
            ssl=ssl.create_default_context(),
        )

    async def post(
        self, endpoint: Endpoint, body: bytes, *, on_sent: Callable[[], object] | None = None
    ) -> Response:
        """Send a request, and return its response without the body if the status is a success.

        The trace context of the current task is added to the headers. `on_sent` is called when the first
        bytes are written. Cancellation aborts the connection, at any point. The caller must bound the wait
        for the response. Raises one of RequestError.
        """
        try:
            connection = await self._connector.connect(endpoint.target, [], self._timeout)
        except TimeoutError as error:
            raise ConnectTimedOut(self._connect_s) from error
        response = Response(connection)
        try:
            head = endpoint.head(len(body), provider_headers.get())
            if on_sent is not None:
                on_sent()
            await response.request(head, body)
        except BaseException:
            response.close()
            raise
        if 200 <= response.status < 300:
            return response
        received = response.headers
        delays = {name: received[name] for name in retry_delay.HEADERS if name in received}
        raise StatusError(response.status, delays, await _error_body(response))

    async def aclose(self) -> None:
        await self._connector.close()


class _Pool(aiohttp.TCPConnector):
    """aiohttp's pool (3.14.5) with our protocol: it resolves names, opens connections and keeps them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        protocol: Any = ProviderConnection  # it has all attributes that the pool uses
        self._factory = functools.partial(protocol, self._loop)


class Sender:
    """Sends the requests of one provider with one key: to paths below `base_url`, with these headers and
    query parameters.
    """

    def __init__(
        self,
        connections: Connections,
        base_url: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
    ) -> None:
        self._connections = connections
        self.backlog = connections.backlog
        self._base_url = base_url
        self._headers = headers
        self._query = query
        self._endpoints: dict[tuple[str, str], Endpoint] = {}  # by path and accepted media type

    async def post(
        self, path: str, body: bytes, *, accept: str, on_sent: Callable[[], object] | None = None
    ) -> Response:
        """See `Connections.post`. Callers use a few paths, which are not from requests."""
        endpoint = self._endpoints.get((path, accept))
        if endpoint is None:
            endpoint = Endpoint(
                self._base_url + path, {**self._headers, "Accept": accept}, self._query
            )
            self._endpoints[path, accept] = endpoint
        return await self._connections.post(endpoint, body, on_sent=on_sent)


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


async def _error_body(response: Response) -> bytes:
    """Return what is received of the body within ERROR_BODY_S, cut off after MAX_ERROR_BODY_BYTES."""
    received = bytearray()
    try:
        with suppress(aiohttp.ClientError, BodyError, TimeoutError):
            async with asyncio.timeout(ERROR_BODY_S):
                body = Body(response)
                while len(received) < MAX_ERROR_BODY_BYTES and (data := await body.read()):
                    received += data
    finally:
        response.release()
    return bytes(received[:MAX_ERROR_BODY_BYTES])
