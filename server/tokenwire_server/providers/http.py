"""The one HTTP client that every provider's SDK uses: aiohttp below httpx2's transport interface.

The SDKs bring such a transport themselves. This one is our own because the token's path runs through
it, and because of what it leaves out: no redirects (one would send the prompt and the key to another
host), no proxies from the environment, no cookies (they would be shared by all tenants), no retries,
and no pool limit, because streams are bounded where they are admitted and a full pool would look
like a slow provider. Bytes are read from aiohttp directly, below httpx2's layers.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import aiohttp
import httpx2

RESPONSE = "tokenwire.aiohttp_response"
"""Key in `httpx2.Response.extensions` of the aiohttp response, for reading the body without layers."""

KEEPALIVE_S = 15.0
"""How long an idle connection is kept. Short of what providers' front ends keep: a POST on a
connection that the other side just closed fails and is not repeated."""


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends a request whole and returns the answer's head; the body is read by whoever wants it.

    Cancelled at any point, it closes the connection. `connect_s` bounds name lookup, TCP and TLS
    together; waiting for the answer is bounded by the caller.
    """

    def __init__(self, *, connect_s: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=KEEPALIVE_S, ssl=ssl.create_default_context()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
            trust_env=False,
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._session.request(
                request.method,
                str(request.url),
                headers=request.headers.multi_items(),
                data=await request.aread() or None,
                allow_redirects=False,
            )
        except TimeoutError as error:
            raise httpx2.ConnectTimeout(type(error).__name__, request=request) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx2.ConnectError(type(error).__name__, request=request) from error
        except aiohttp.ClientError as error:
            raise httpx2.RemoteProtocolError(type(error).__name__, request=request) from error
        return httpx2.Response(
            status_code=response.status,
            # aiohttp has already undone any compression.
            headers=[
                (name, value)
                for name, value in response.raw_headers
                if name.lower() != b"content-encoding"
            ],
            stream=_Body(response),
            extensions={RESPONSE: response},
        )

    async def aclose(self) -> None:
        await self._session.close()


class _Body(httpx2.AsyncByteStream):
    """The body as httpx2 wants it: read so only for the text of an error."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except aiohttp.ClientError as error:
            raise httpx2.ReadError(type(error).__name__) from error

    async def aclose(self) -> None:
        release(self._response)


def release(response: aiohttp.ClientResponse) -> None:
    """Give the connection back when its answer was read to the end; otherwise close it, at once."""
    if response.content.is_eof():
        response.release()
    else:
        response.close()
