"""The HTTP client of moderation services: the connections of providers behind httpx2's interface."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import aiohttp
import httpx2

from ..providers.body import Body
from ..providers.endpoint import Endpoint
from ..providers.http import Connections, ConnectTimedOut, StatusError
from ..providers.inflate import BodyError
from ..providers.response import Response

MAX_ANSWER_BYTES = 64 * 1024
"""Largest answer of a service. One of OpenAI takes 2 KB."""

_SENT_HEADERS = frozenset(
    {"accept", "accept-encoding", "authorization", "content-type", "user-agent"}
)


class AnswerError(httpx2.ReadError):
    """The body of an answer could not be read. The text says why, and contains nothing of it."""


def moderation_client(
    connections: Connections, headers: Mapping[str, str], *, sends_key: bool
) -> httpx2.AsyncClient:
    """Return a client that sends nothing of the environment, follows no redirects, and keeps no cookies.

    It has no time limits: each check has one. It raises AnswerError for a body that is too large or breaks
    off.
    """
    return httpx2.AsyncClient(
        transport=_Transport(connections, headers, sends_key=sends_key),
        headers={"Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=None,
        follow_redirects=False,
        trust_env=False,
    )


class _Transport(httpx2.AsyncBaseTransport):
    """Sends the requests of one service, with the configured headers.

    Of the other headers only _SENT_HEADERS are sent. Without `sends_key` the SDK's `Authorization` header is
    not sent.
    """

    def __init__(
        self, connections: Connections, headers: Mapping[str, str], *, sends_key: bool
    ) -> None:
        self._connections = connections
        self._headers = headers
        configured = {name.lower() for name in headers}
        self._sent = _SENT_HEADERS - configured - (set() if sends_key else {"authorization"})

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {name: text for name, text in request.headers.items() if name in self._sent}
        headers |= self._headers
        try:
            response = await self._connections.post(
                Endpoint(str(request.url), headers), await request.aread()
            )
        except StatusError as error:
            return httpx2.Response(error.status, content=error.body)
        except ConnectTimedOut as error:
            raise httpx2.ConnectTimeout(str(error), request=request) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx2.ConnectError(type(error).__name__, request=request) from error
        except aiohttp.ClientError as error:
            raise httpx2.RemoteProtocolError(type(error).__name__, request=request) from error
        # Otherwise the SDK would parse the body before its form is checked.
        return httpx2.Response(
            response.status,
            headers={"Content-Type": "application/json"},
            content=await _whole_body(response),
        )


async def _whole_body(response: Response) -> bytes:
    try:
        content = await Body(response).read_whole(MAX_ANSWER_BYTES + 1)
    except (aiohttp.ClientError, BodyError) as error:
        raise AnswerError(f"its answer broke off: {type(error).__name__}") from error
    finally:
        response.release()
    if len(content) > MAX_ANSWER_BYTES:
        raise AnswerError(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
    return content
