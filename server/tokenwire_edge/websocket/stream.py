"""The state of an open stream of a socket, as the session's tasks share it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tokenwire.errors import TokenwireError

from ..problems import Problem


class OpenStream:
    """A stream from its `chat` or `resume` until its last frame is sent."""

    def __init__(
        self,
        id: str,
        *,
        stream_id: str = "",
        after_sequence: int = -1,
        request_json: bytes | None = None,
        interrupted: OpenStream | None = None,
    ) -> None:
        self.id = id
        self.stream_id = stream_id
        """The server's id. Empty until the server has accepted the call."""
        self.after_sequence = after_sequence
        """The cursor, or -1 for a new stream."""
        self.request_json = request_json
        """The ChatRequest, or None for a stream that is resumed."""
        self.sends_heartbeats = False
        """Whether the caller requested `heartbeat` events."""
        self.interrupted = interrupted
        """The stream whose end it still waits for, or None."""
        self.stop: asyncio.Task[TokenwireError | None] | None = None
        """The task that stops the generation. It returns the error if that failed."""
        self.has_id_or_ended = asyncio.Event()
        self.ended = asyncio.Event()
        self._scope: asyncio.Timeout | None = None
        self._abandoned_for: Problem | None = None
        if stream_id:
            self.has_id_or_ended.set()

    @property
    def is_stopping(self) -> bool:
        """Whether the generation is being stopped or has been. False if stopping it failed."""
        return self.stop is not None and not (self.stop.done() and self.stop.result() is not None)

    @contextlib.asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Run the block until `abandon` is called. Then raise its problem instead."""
        if self._abandoned_for is not None:
            raise self._abandoned_for
        try:
            async with asyncio.timeout(None) as self._scope:
                yield
        except TimeoutError:
            if self._abandoned_for is None:
                raise
            raise self._abandoned_for from None
        finally:
            self._scope = None

    def abandon(self, problem: Problem) -> None:
        """End the stream with an error, whatever it waits for. Only the first call has an effect."""
        if self._abandoned_for is not None:
            return
        self._abandoned_for = problem
        if self._scope is not None:
            self._scope.reschedule(0)
