"""An ASGI application that relays one stream to one HTTP caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from ..aio.chat_stream import AsyncChatStream
from ..errors import TokenwireError
from .server_sent_events import HEADERS, encode_error, encode_event

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class EventStream:
    """Relays a stream as server-sent events: an ASGI application for one request.

        await EventStream(client.chat_stream("openai/demo", question))(scope, receive, send)

    The stream must not have been entered. An error before the first content is raised before anything is
    sent, so that the application can choose a status: see `status_of`. A later error is sent as the last
    event, `error`. If a stream is resumed at its very end, the status is 204, which stops EventSource.

    When the caller leaves, the call ends immediately, even if no event arrives. A stream that outlives its
    readers (`resumable`, or `retention` with CONTINUE) then continues, so that the caller can reconnect with
    the header `Last-Event-ID`: see `position_of`. Without a reader it continues, and is billed, for its
    `linger`. With `cancels_when_left`, its generation is cancelled instead. That of a `resumable` stream is
    also cancelled if the caller leaves before it has received an id. Leaving a stream of `client.resume`
    never cancels it.
    """

    def __init__(
        self,
        stream: AsyncChatStream,
        *,
        headers: Mapping[str, str] | None = None,
        cancels_when_left: bool = False,
    ) -> None:
        self._stream = stream
        named = {name.lower(): value for name, value in (headers or {}).items()}
        self.raw_headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in {**HEADERS, **named}.items()
        ]
        """The headers of the response, as ASGI has them."""
        self._cancels_when_left = cancels_when_left
        if cancels_when_left:
            stream.cancel_when_left()
        self._has_begun = False

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"an event stream answers HTTP requests, not {scope['type']!r}")
        relay = asyncio.create_task(self._relay(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({relay, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
            else:
                self._let_it_go_on()
        except asyncio.CancelledError:  # the server stops: the caller reconnects to another one
            self._let_it_go_on()
            raise
        finally:
            for task in (relay, leaving):
                task.cancel()
            await asyncio.wait({relay, leaving})

    def _let_it_go_on(self) -> None:
        """Let the generation continue without the caller, if the caller can reconnect."""
        if self._has_begun and not self._cancels_when_left:
            with suppress(RuntimeError):  # the generation ends with its last reader anyway
                self._stream.detach()

    async def _relay(self, send: Send) -> None:
        with suppress(_CallerLeft):
            async with self._stream as stream:
                await stream.until_first_content()
                try:
                    async for event in stream:
                        body = encode_event(event, stream.stream_id)
                        if not self._has_begun:
                            await self._begin(send, 200)
                        await _send_body(send, body, more_body=True)
                except _CallerLeft:
                    self._let_it_go_on()
                    raise
                except TokenwireError as error:
                    if not self._has_begun:
                        raise
                    last = encode_error(error)
                else:
                    last = b""
            if not self._has_begun:
                await self._begin(send, 204)
            await _send_body(send, last, more_body=False)

    async def _begin(self, send: Send, status: int) -> None:
        await _send(
            send, {"type": "http.response.start", "status": status, "headers": self.raw_headers}
        )
        self._has_begun = True


class _CallerLeft(Exception):
    """The caller has left: nothing can be sent to it."""


async def _send(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError as error:  # of a server with version 2.4 of ASGI's HTTP protocol, or newer
        raise _CallerLeft from error


async def _send_body(send: Send, body: bytes, *, more_body: bool) -> None:
    await _send(send, {"type": "http.response.body", "body": body, "more_body": more_body})


async def _left(receive: Receive) -> None:
    """Return when the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
