"""Long pieces of work that share one event loop, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .errors import Overloaded


class Turns:
    """Lets one task work at a time, in the order of arrival. Belongs to one event loop.

    Work that is done in short steps still adds up when many tasks take a step in every round of the loop.
    `max_waiting` bounds the work that waits, in whatever unit the callers use; `what` names it for
    callers who are refused.
    """

    def __init__(self, *, max_waiting: int, what: str) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._max_waiting = max_waiting
        self._what = what

    @asynccontextmanager
    async def mine(self, work: int) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises Overloaded. Cancelled, it leaves the queue."""
        if self._waiting + work > self._max_waiting:
            raise Overloaded(self._what, limit=self._max_waiting)
        self._waiting += work
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= work
        try:
            yield
        finally:
            self._lock.release()
