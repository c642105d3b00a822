"""The HTTP client of moderation services, over the same connections as the providers."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import aiohttp

from ..providers.body import Body
from ..providers.connection import FramingError
from ..providers.endpoint import Endpoint
from ..providers.fault import connection_fault
from ..providers.headers import json_headers, with_configured
from ..providers.http import Connections, ConnectTimedOut, StatusError
from ..providers.inflate import BodyError
from ..providers.response import Response
from .service import ModerationFailed

MAX_ANSWER_BYTES = 64 * 1024
"""Largest answer of a service. One of OpenAI takes 2 KB."""


class ModerationClient:
    """Posts JSON to the address of one service.

    It sends nothing of the environment, follows no redirects, and keeps no cookies. It has no time limits:
    each check has one.
    """

    def __init__(
        self, connections: Connections, url: str, key: str, configured: Mapping[str, str]
    ) -> None:
        """`configured` are headers that replace others of the same name. Without a key, none is sent."""
        self._connections = connections
        self._url = url
        usual = json_headers(key) | {"Accept": "application/json"}
        self._headers = with_configured(usual, configured)
        self._endpoint: Endpoint | None = None

    async def post(self, body: bytes) -> bytes:
        """Return the body of the answer. Raises ModerationFailed, for a status other than 200 too."""
        if self._endpoint is None:  # made here: it needs a running event loop
            self._endpoint = Endpoint(self._url, self._headers)
        try:
            response = await self._connections.post(self._endpoint, body)
        except StatusError as error:
            raise _status_failure(error.status) from error
        except FramingError as error:
            raise ModerationFailed(f"it {error}") from error
        except (ConnectTimedOut, aiohttp.ClientError) as error:
            raise ModerationFailed(f"it cannot be reached: {connection_fault(error)}") from error
        content = await _whole_body(response)
        if response.status != HTTPStatus.OK:
            raise _status_failure(response.status)
        return content


def _status_failure(status: int) -> ModerationFailed:
    return ModerationFailed(f"it answered with status {status}")


async def _whole_body(response: Response) -> bytes:
    try:
        content = await Body(response).read_whole(MAX_ANSWER_BYTES + 1)
    except (BodyError, FramingError) as error:
        raise ModerationFailed(f"it {error}") from error
    except aiohttp.ClientError as error:
        raise ModerationFailed(f"its answer broke off: {type(error).__name__}") from error
    finally:
        response.release()
    if len(content) > MAX_ANSWER_BYTES:
        raise ModerationFailed(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
    return content
