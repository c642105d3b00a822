"""One log line for each request. It contains no query, header or body: those contain keys and tickets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .body_writer import body_writer_of

logger = logging.getLogger(__name__)

STREAM_ID_HEADER = b"tokenwire-stream-id"


class AccessLog:
    """Middleware: log the request when it has ended.

    For example `method=GET path=/v1/models status=200 bytes=512 duration_ms=3.1`. `stream=` is added if
    the response names one. `cut=true` means that it ended early: the caller left, or it failed.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not logger.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        began = self._clock()
        status = size = 0
        stream_id = ""
        is_complete = False

        async def observe(message: Message) -> None:
            nonlocal status, size, stream_id, is_complete
            await send(message)
            kind = message["type"]
            if kind == "http.response.body":
                size += len(message.get("body", b""))
                is_complete = not message.get("more_body", False)
            elif kind in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                for name, value in message.get("headers", ()):
                    if name == STREAM_ID_HEADER:
                        stream_id = value.decode("latin-1")
            elif kind == "websocket.accept":
                status = 101

        try:
            await self._app(scope, receive, observe)
        finally:
            is_socket = scope["type"] == "websocket"
            if writer := body_writer_of(scope):
                size += writer.size
            logger.info(
                "method=%s path=%s status=%s%s duration_ms=%.1f%s%s",
                "WEBSOCKET" if is_socket else scope["method"],
                scope["raw_path"].decode("latin-1"),
                status or "none",
                "" if is_socket else f" bytes={size}",
                1000 * (self._clock() - began),
                f" stream={stream_id}" if stream_id else "",
                "" if is_socket or is_complete else " cut=true",
            )
