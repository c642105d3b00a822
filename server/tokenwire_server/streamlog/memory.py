"""A stream's log in this process's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..errors import Failure, SlowReader
from ..events import (
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from .space import LogSpace

ENTRY_BYTES = 56
"""What an entry costs besides its text: a list slot, with its slack, and the event (CPython 3.11)."""
STREAM_BYTES = 3072
"""What a stream costs besides its entries, in this process's tables."""
STEP_BYTES = 16 * 1024
"""A growing log takes its share of the total in steps, so that a token costs no accounting."""
LONG_TEXT_CHARS = 256
"""The width of longer texts is found by encoding them."""
MAX_READ_ENTRIES = 4096
"""Entries in one read: looking at them takes 1.3 ms, which everybody else waits for."""


class MemoryLog:
    """`StreamLog` of at most `max_bytes`, as memory is counted here: the text's, and `ENTRY_BYTES` an entry.

    Past the bound the oldest entries go, an eighth of the bound at a time, and a reader that still
    needs them gets SlowReader. What it takes is counted in `space`. Never blocks. Belongs to one
    event loop.
    """

    __slots__ = (
        "_entries",
        "_evicted",
        "_max_bytes",
        "_room",
        "_seal_waiters",
        "_space",
        "_taken",
        "_wakes",
        "byte_count",
        "failure",
        "finished",
        "last_sequence",
        "sealed",
    )

    def __init__(self, max_bytes: int, space: LogSpace) -> None:
        self._entries: list[Event] = []
        self._evicted = 0  # entries dropped from the front: also the sequence before the first kept
        self.byte_count = 0
        self._max_bytes = max_bytes
        self._space = space
        self._taken = STREAM_BYTES  # of the space
        self._room = 0  # what byte_count may reach without further ado
        self._wakes: dict[Callable[[], None], None] = {}  # a set in order
        self._seal_waiters: list[asyncio.Future[None]] = []
        self.last_sequence = 0
        self.sealed = False
        self.finished: Finished | None = None
        self.failure: Failure | None = None
        space.take(self._taken)

    @property
    def earliest_sequence(self) -> int:
        return self._evicted + 1

    def append(self, event: Event) -> int:
        if self.sealed:
            raise ValueError("the log is sealed")
        self._entries.append(event)
        self.byte_count += entry_bytes(event)
        self.last_sequence += 1
        if self.byte_count > self._room:
            self._grow()
        for wake in self._wakes:
            wake()
        return self.last_sequence

    def finish(self, event: Finished) -> bool:
        if self.sealed:
            return False
        self.append(event)
        self.finished = event
        self._seal()
        return True

    def fail(self, failure: Failure) -> bool:
        if self.sealed:
            return False
        self.failure = failure
        self._seal()
        return True

    def read(self, after_sequence: int) -> Sequence[Event]:
        first = after_sequence - self._evicted
        if first < 0:
            raise SlowReader(
                f"the stream's log no longer holds what follows sequence {after_sequence}; "
                f"it begins at {self.earliest_sequence}",
                earliest_sequence=self.earliest_sequence,
            )
        return self._entries[first : first + MAX_READ_ENTRIES]

    def subscribe(self, wake: Callable[[], None]) -> None:
        self._wakes[wake] = None

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        self._wakes.pop(wake, None)

    async def wait_sealed(self) -> None:
        if self.sealed:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._seal_waiters.append(waiter)
        try:
            await waiter
        finally:
            self._seal_waiters.remove(waiter)

    def drop(self) -> None:
        if self._taken:
            keep = 1 if self.finished is not None else 0
            self._evicted = self.last_sequence - keep
            self._entries = self._entries[-1:] if keep else []
            self.byte_count = sum(entry_bytes(event) for event in self._entries)
            self._space.give(self._taken)
            self._taken = 0

    def _seal(self) -> None:
        self.sealed = True
        self._space.give(self._taken)
        self._taken = STREAM_BYTES + self.byte_count
        self._space.take(self._taken)
        for wake in self._wakes:
            wake()
        for waiter in self._seal_waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _grow(self) -> None:
        """Take more of the space, up to this log's bound; beyond it, evict."""
        room = min(self.byte_count + STEP_BYTES, self._max_bytes)
        if room > self._room:
            self._space.take(room - self._room)
            self._taken += room - self._room
            self._room = room
        if self.byte_count > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        goal = self._max_bytes - self._max_bytes // 8
        count = 0
        # The newest entry stays, whatever its size: a live reader can always go on.
        while self.byte_count > goal and count < len(self._entries) - 1:
            self.byte_count -= entry_bytes(self._entries[count])
            count += 1
        del self._entries[:count]
        self._evicted += count


def entry_bytes(event: Event) -> int:
    """What an entry takes in memory; always the same for the same entry."""
    if isinstance(event, TextDelta):
        return ENTRY_BYTES + _text_bytes(event.text)
    if isinstance(event, ReasoningDelta):
        return ENTRY_BYTES + _text_bytes(event.text) + len(event.signature)
    if isinstance(event, ToolCallDelta):
        return ENTRY_BYTES + _text_bytes(event.arguments_json)
    if isinstance(event, ToolCall):
        named = _text_bytes(event.id) + _text_bytes(event.name)
        return ENTRY_BYTES + named + _text_bytes(event.arguments_json)
    if isinstance(event, ToolCallStarted):
        return ENTRY_BYTES + _text_bytes(event.id) + _text_bytes(event.name)
    return ENTRY_BYTES


def _text_bytes(text: str) -> int:
    """What a string takes (CPython 3.11): 1, 2 or 4 bytes a character, after its widest, and, unless it
    is ASCII, as much as its UTF-8 beside it: a message that is being written holds that.

    Not `getsizeof`: it tells more of a string whose UTF-8 somebody has asked for.
    """
    if text.isascii():
        return 49 + len(text)
    utf8_bytes = len(text.encode())
    if len(text) > LONG_TEXT_CHARS:
        width = _width(text)
    else:
        widest = max(text)
        width = 1 if widest < "\u0100" else 2 if widest < "\U00010000" else 4
    return 72 + width * (len(text) + 1) + utf8_bytes


def _width(text: str) -> int:
    """Return the bytes per character of a long text, 25 times as fast as by looking at each character."""
    if len(text.encode("utf-16-le")) > 2 * len(text):
        return 4
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return 2
    return 1
