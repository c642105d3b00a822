"""The HTTP client of moderation services: that of providers, with bodies that are read and bounded."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
import httpx2

from ..providers.body import Body
from ..providers.http import RESPONSE, Connections, ProviderTransport, isolated_client, release
from ..providers.inflate import BodyError

MAX_ANSWER_BYTES = 64 * 1024
"""Largest answer of a service. One of OpenAI takes 2 KB."""


class AnswerError(httpx2.ReadError):
    """The body of an answer could not be read. The text says why, and contains nothing of it."""


def moderation_client(
    connections: Connections, headers: Mapping[str, str], *, sends_key: bool
) -> httpx2.AsyncClient:
    """Return a client that sends nothing of the environment, and follows no redirects.

    It raises AnswerError for a body that is too large or breaks off.
    """
    transport = ProviderTransport(connections, headers=headers, query={}, sends_key=sends_key)
    return isolated_client(_BoundedTransport(transport))


class _BoundedTransport(httpx2.AsyncBaseTransport):
    """Reads the bodies of successful answers up to MAX_ANSWER_BYTES."""

    def __init__(self, inner: ProviderTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        head = await self._inner.handle_async_request(request)
        response: aiohttp.ClientResponse | None = head.extensions.get(RESPONSE)
        if response is None:  # no success; its body was read
            return head
        try:
            content = await Body(response).read_whole(MAX_ANSWER_BYTES + 1)
        except (aiohttp.ClientError, BodyError) as error:
            raise AnswerError(f"its answer broke off: {type(error).__name__}") from error
        finally:
            release(response)
        if len(content) > MAX_ANSWER_BYTES:
            raise AnswerError(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
        # Otherwise the SDK would parse the body before its form is checked.
        return httpx2.Response(
            head.status_code, headers={"Content-Type": "application/json"}, content=content
        )
