"""Turns of the event loop for answers of which more has arrived than was decoded."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

MAX_TURN_BYTES = 4 * 1024
"""Bytes that all answers together decode in one turn of the event loop, besides what just arrived. The piece
that passes this number is decoded too."""


class Backlog:
    """Shares each turn of the event loop between the answers with a backlog, in the order in which they wait.

    Without it, each of them would decode a piece in each turn. With 20 providers that send as fast as they
    can, a turn then takes 6 ms, and the first token of another stream needs several turns. Small pieces of
    many answers share a turn. Belongs to one event loop.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: deque[tuple[asyncio.Future[None], int, float]] = deque()
        """The turns that answers wait for, with their sizes, and since when they wait."""
        self._left_bytes = MAX_TURN_BYTES
        self._is_counting = False

    async def turn(self, size_bytes: int) -> None:
        """Wait for a turn to decode so many bytes. Other tasks run before it."""
        loop = asyncio.get_running_loop()
        if not self._is_counting:
            self._is_counting = True
            loop.call_soon(self._next_turn, loop)
        if self._left_bytes > 0 and not self._waiting:
            self._left_bytes -= size_bytes
            await asyncio.sleep(0)
            return
        turn = loop.create_future()
        self._waiting.append((turn, size_bytes, self._clock()))
        await turn

    def waiting_s(self) -> float:
        """Return for how many seconds the first of the waiting answers has waited. 0: none waits."""
        return self._clock() - self._waiting[0][2] if self._waiting else 0.0

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left_bytes = MAX_TURN_BYTES
        while self._waiting and self._left_bytes > 0:
            turn, size_bytes, _ = self._waiting.popleft()
            if not turn.done():  # otherwise its task was cancelled
                turn.set_result(None)
                self._left_bytes -= size_bytes
        self._is_counting = self._left_bytes < MAX_TURN_BYTES
        if self._is_counting:
            loop.call_soon(self._next_turn, loop)
