"""One configured provider, reached through its official SDK, and an open answer of it.

The SDK builds, authenticates and sends the request and types its errors; the body is read as bytes,
below its layers, and decoded by our own sans-IO decoder: a typed SDK stream costs 5 to 8 times the
CPU per token.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

import aiohttp
import anthropic
import httpx2
import msgspec
import openai

from ..config import ProviderConfig
from ..errors import UpstreamBroken
from ..events import Delta
from ..request import ChatRequest, Violation
from .base import Dialect
from .decode.base import Complete, Decoder
from .fault import SdkError, from_sdk_error
from .http import RESPONSE, release

END_OF_BODY_S = 0.25
"""How long a complete answer may take to end its body, so that the connection can be used again."""

SdkClient = openai.AsyncOpenAI | anthropic.AsyncAnthropic

_encoder = msgspec.json.Encoder()


class HttpProvider:
    """A provider behind HTTP: one dialect, one SDK client."""

    def __init__(
        self, name: str, config: ProviderConfig, dialect: Dialect, client: SdkClient
    ) -> None:
        self.name = name
        self._config = config
        self._dialect = dialect
        self._client = client

    def check(self, request: ChatRequest) -> list[Violation]:
        return self._dialect.check(request, self._config)

    def open(self, request: ChatRequest, model: str, max_output_tokens: int | None) -> HttpUpstream:
        body = self._dialect.body(request, model, self._config, max_output_tokens)
        return HttpUpstream(
            client=self._client,
            path=self._dialect.path,
            body=_encoder.encode(body),
            decoder=self._dialect.decoder(self._config),
            provider=self.name,
            model=model,
        )


class HttpUpstream:
    """An answer: entering sends the request and waits for its head, `read` reads the body.

    Leaving closes the connection at once, unless the answer is complete and its body ends within
    `END_OF_BODY_S`. Cancelled while entering, it closes the connection too.
    """

    def __init__(
        self,
        *,
        client: SdkClient,
        path: str,
        body: bytes,
        decoder: Decoder,
        provider: str,
        model: str,
    ) -> None:
        self.decoder = decoder
        self._client = client
        self._path = path
        self._body = body
        self._provider = provider
        self._model = model

    async def __aenter__(self) -> Self:
        try:
            response = await self._client.post(
                self._path,
                cast_to=httpx2.Response,
                content=self._body,
                options={
                    "headers": {"Content-Type": "application/json", "Accept": "text/event-stream"}
                },
                stream=True,
                stream_cls=_stream_class(self._client),
            )
        except SdkError as error:
            raise from_sdk_error(error, provider=self._provider, model=self._model) from error
        del self._body  # prompts can be large, and answers long
        self._response: aiohttp.ClientResponse = response.extensions[RESPONSE]
        self._content = self._response.content
        return self

    async def read(self) -> list[Delta]:
        """Wait for bytes; return the deltas they complete. Sets `decoder.end` when the body ends."""
        try:
            data = await self._content.readany()
        except aiohttp.ClientError as error:
            return self._broken(error)
        if data:
            return self.decoder.feed(data)
        return self.decoder.eof()

    def _broken(self, error: aiohttp.ClientError) -> list[Delta]:
        """The connection broke: decode what came before that and was not read yet, then say so."""
        self._content.set_exception(None)  # else the rest cannot be read
        deltas = self.decoder.feed(self._content.read_nowait())
        if self.decoder.end is None:
            self.decoder.end = UpstreamBroken(
                f"the connection to provider {self._provider!r} broke",
                provider=self._provider,
                provider_text=f"{type(error).__name__}: {error}",
            )
        return deltas

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if exc_type is None and isinstance(self.decoder.end, Complete):
                async with asyncio.timeout(END_OF_BODY_S):
                    while await self._content.readany():
                        pass
        except (TimeoutError, aiohttp.ClientError):
            pass  # the answer is whole; only the connection is not worth keeping
        finally:
            release(self._response)


def _stream_class(client: SdkClient) -> Any:
    """The SDK's own stream class: asked for by its `post`, never built, as the raw response is."""
    if isinstance(client, openai.AsyncOpenAI):
        return openai.AsyncStream[object]
    return anthropic.AsyncStream[object]
