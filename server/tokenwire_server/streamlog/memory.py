"""A stream's log in this process's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from sys import getsizeof

from ..errors import SlowReader, TokenwireError
from ..events import Event, Finished, ReasoningDelta, TextDelta, ToolCall, ToolCallDelta

ENTRY_BYTES = 56
"""What an entry costs besides its text: a list slot, with its slack, and the event (CPython 3.11)."""
MAX_READ_ENTRIES = 4096
"""Entries in one read: merging them takes 1.3 ms, which everybody else waits for."""


class MemoryLog:
    """`StreamLog` of at most `max_bytes`, as memory is counted here: the text's, and `ENTRY_BYTES` an entry.

    Past the bound the oldest entries go, an eighth of the bound at a time, and a reader that still
    needs them gets SlowReader. Never blocks. Belongs to one event loop.
    """

    __slots__ = (
        "_bytes",
        "_entries",
        "_evicted",
        "_max_bytes",
        "_seal_waiters",
        "_waiters",
        "failure",
        "last_sequence",
        "sealed",
    )

    def __init__(self, max_bytes: int) -> None:
        self._entries: list[Event] = []
        self._evicted = 0  # entries dropped from the front: also the sequence before the first kept
        self._bytes = 0
        self._max_bytes = max_bytes
        self._waiters: list[asyncio.Future[None]] = []
        self._seal_waiters: list[asyncio.Future[None]] = []
        self.last_sequence = 0
        self.sealed = False
        self.failure: TokenwireError | None = None

    def append(self, event: Event) -> int:
        if self.sealed:
            raise ValueError("the log is sealed")
        self._entries.append(event)
        self._bytes += _size(event)
        self.last_sequence += 1
        if self._bytes > self._max_bytes:
            self._evict()
        if self._waiters:
            _wake(self._waiters)
        return self.last_sequence

    def finish(self, event: Finished) -> bool:
        if self.sealed:
            return False
        self.append(event)
        self._seal()
        return True

    def fail(self, error: TokenwireError) -> bool:
        if self.sealed:
            return False
        self.failure = error
        self._seal()
        return True

    def read(self, after_sequence: int) -> Sequence[Event]:
        first = after_sequence - self._evicted
        if first < 0:
            raise SlowReader(
                f"the stream's log no longer holds what follows sequence {after_sequence}; "
                f"it begins at {self._evicted + 1}",
                earliest_sequence=self._evicted + 1,
            )
        return self._entries[first : first + MAX_READ_ENTRIES]

    async def wait(self, after_sequence: int) -> None:
        if self.last_sequence <= after_sequence and not self.sealed:
            await _wait_in(self._waiters)

    async def wait_sealed(self) -> None:
        if not self.sealed:
            await _wait_in(self._seal_waiters)

    def _seal(self) -> None:
        self.sealed = True
        _wake(self._waiters)
        _wake(self._seal_waiters)

    def _evict(self) -> None:
        goal = self._max_bytes - self._max_bytes // 8
        count = 0
        # The newest entry stays, whatever its size: a live reader can always go on.
        while self._bytes > goal and count < len(self._entries) - 1:
            self._bytes -= _size(self._entries[count])
            count += 1
        del self._entries[:count]
        self._evicted += count


async def _wait_in(waiters: list[asyncio.Future[None]]) -> None:
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    except BaseException:
        if waiter in waiters:
            waiters.remove(waiter)
        raise


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()


def _size(event: Event) -> int:
    # What a string takes depends on its widest character: 1, 2 or 4 bytes for each.
    if isinstance(event, TextDelta):
        return ENTRY_BYTES + getsizeof(event.text)
    if isinstance(event, ReasoningDelta):
        return ENTRY_BYTES + getsizeof(event.text) + len(event.signature)
    if isinstance(event, ToolCallDelta | ToolCall):
        return ENTRY_BYTES + getsizeof(event.arguments_json)
    return ENTRY_BYTES
