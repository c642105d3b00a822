"""A queue for long work on a shared event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import Overloaded


class Turns:
    """Lets one task work at a time, in the order of arrival. Belongs to one event loop.

    Even short steps of work add up when many tasks take a step in every round of the loop. `max_waiting`
    bounds the work that waits, in a unit that the caller chooses. `refusal` is the text of Overloaded.
    Work that exceeds the bound alone is accepted when no other work waits.
    """

    def __init__(self, *, max_waiting: int, refusal: str) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._max_waiting = max_waiting
        self._refusal = refusal

    @asynccontextmanager
    async def turn(self, work: int) -> AsyncIterator[None]:
        """Wait for a turn and keep it for the block. Raises Overloaded. Cancellation leaves the queue."""
        if self._waiting and self._waiting + work > self._max_waiting:
            raise Overloaded(self._refusal, limit=self._max_waiting)
        self._waiting += work
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= work
        try:
            yield
        finally:
            self._lock.release()
