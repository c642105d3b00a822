"""The response for Starlette and FastAPI. Importing it needs Starlette."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..aio.chat_stream import AsyncChatStream
from .event_stream import EventStream
from .server_sent_events import MEDIA_TYPE


class EventStreamResponse(Response):
    """A response that relays a stream as server-sent events: see `EventStream`.

        @app.get("/chat")
        async def chat(question: str) -> Response:
            return EventStreamResponse(client.chat_stream("openai/demo", question))

    An error before the first content is raised, and reaches the application's exception handlers. Headers and
    cookies can be set as on any response. `background` runs after the response, unless an error was raised.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        stream: AsyncChatStream,
        *,
        headers: Mapping[str, str] | None = None,
        cancels_when_left: bool = False,
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(background=background)
        self._event_stream = EventStream(
            stream, headers=headers, cancels_when_left=cancels_when_left
        )
        self.raw_headers = self._event_stream.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._event_stream(scope, receive, send)
        if self.background is not None:
            await self.background()
