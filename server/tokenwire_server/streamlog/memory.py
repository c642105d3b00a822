"""A stream's log in the memory of this process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

from ..errors import Failure, SlowReader
from ..events import (
    Citation,
    Event,
    Finished,
    InvalidToolCall,
    JsonResult,
    JsonValue,
    Logprobs,
    Notice,
    ReasoningDelta,
    TextDelta,
    TextInfo,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from .space import LogSpace

ENTRY_BYTES = 56
"""Memory of an entry besides its text: the event, and a list slot with its slack (CPython 3.11)."""
_CITATION_BYTES = 128
"""Memory of a citation's numbers and kind."""
_VIOLATION_BYTES = 48
"""Memory of a violation besides its texts: the struct, and a place in a tuple."""
_LOGPROB_BYTES = 80
"""Memory of a token's log probability besides its text: the struct, the float, and a place in a tuple."""
STREAM_BYTES = 3072
"""Memory of a stream besides its entries, in the tables of this process."""
STEP_BYTES = 16 * 1024
"""A growing log takes its share of the total in steps of this size, so that most tokens need no
accounting."""
LONG_TEXT_CHARS = 256
"""Beyond this length, the width of a text is determined by encoding it."""
MAX_READ_ENTRIES = 4096
"""Maximum number of entries in one read. To process them takes 1.3 ms, in which no other task runs."""


class MemoryLog:
    """A `StreamLog` of at most `max_bytes`. The size of an entry is its text in memory and `ENTRY_BYTES`.

    Beyond the bound the oldest entries are dropped, an eighth of the bound at a time, and a reader that still
    needs them gets SlowReader. The memory is counted in `space`, as that of `tenant`. Never blocks. Must be
    used in one event loop.
    """

    __slots__ = (
        "_entries",
        "_evicted",
        "_max_bytes",
        "_room",
        "_seal_waiters",
        "_space",
        "_taken",
        "_tenant",
        "_wakes",
        "byte_count",
        "failure",
        "finished",
        "last_sequence",
        "sealed",
    )

    def __init__(
        self, max_bytes: int, space: LogSpace, tenant: str = "", *, first_sequence: int = 1
    ) -> None:
        self._entries: list[Event] = []
        # Entries dropped from the front, and the sequence of the last of them.
        self._evicted = first_sequence - 1
        self.byte_count = 0
        self._max_bytes = max_bytes
        self._space = space
        self._tenant = tenant
        self._taken = STREAM_BYTES  # bytes taken from the space
        self._room = 0  # byte_count up to which no more space must be taken
        self._wakes: dict[Callable[[], None], None] = {}  # an ordered set
        self._seal_waiters: tuple[asyncio.Future[None], ...] = ()
        self.last_sequence = self._evicted
        self.sealed = False
        self.finished: Finished | None = None
        self.failure: Failure | None = None
        space.take(self._taken, tenant)

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
                f"the events after sequence {after_sequence} were dropped from the stream's log, which "
                f"begins at {self.earliest_sequence} (max_log_bytes)",
                limit_name="max_log_bytes",
                earliest_sequence=self.earliest_sequence,
            )
        return self._entries[first : first + MAX_READ_ENTRIES]

    def skip(self, first_sequence: int) -> None:
        """Drop all entries. The next one has `first_sequence`, which is higher than all before."""
        self._entries.clear()
        self.byte_count = 0
        self._evicted = self.last_sequence = first_sequence - 1

    def subscribe(self, wake: Callable[[], None]) -> None:
        self._wakes[wake] = None

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        self._wakes.pop(wake, None)

    async def wait_sealed(self) -> None:
        if self.sealed:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._seal_waiters += (waiter,)
        try:
            await waiter
        finally:
            self._seal_waiters = tuple(each for each in self._seal_waiters if each is not waiter)

    def drop(self) -> None:
        if self._taken:
            keep = 1 if self.finished is not None else 0
            self._evicted = self.last_sequence - keep
            self._entries = self._entries[-1:] if keep else []
            self.byte_count = sum(entry_bytes(event) for event in self._entries)
            self._space.give(self._taken, self._tenant)
            self._taken = 0

    def _seal(self) -> None:
        self.sealed = True
        self._space.give(self._taken, self._tenant)
        self._taken = STREAM_BYTES + self.byte_count
        self._space.take(self._taken, self._tenant)
        for wake in self._wakes:
            wake()
        for waiter in self._seal_waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _grow(self) -> None:
        """Take more of the space, up to the bound of this log. Beyond the bound, drop entries."""
        room = min(self.byte_count + STEP_BYTES, self._max_bytes)
        if room > self._room:
            self._space.take(room - self._room, self._tenant)
            self._taken += room - self._room
            self._room = room
        if self.byte_count > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        goal = self._max_bytes - self._max_bytes // 8
        count = 0
        # The newest entry is kept, whatever its size, so that a live reader can always continue.
        while self.byte_count > goal and count < len(self._entries) - 1:
            self.byte_count -= entry_bytes(self._entries[count])
            count += 1
        del self._entries[:count]
        self._evicted += count


def entry_bytes(event: Event) -> int:
    """Return the size of an entry in memory. Always the same for the same entry."""
    if isinstance(event, TextDelta):
        return ENTRY_BYTES + _text_bytes(event.text)
    if isinstance(event, ToolCallDelta):
        return ENTRY_BYTES + _text_bytes(event.arguments_json)
    if isinstance(event, ReasoningDelta) and not event.signature and not event.provider_state:
        return ENTRY_BYTES + _text_bytes(event.text)
    return ENTRY_BYTES + _rare_bytes(event)


def _rare_bytes(event: Event) -> int:
    match event:
        case ReasoningDelta():
            texts = _texts_bytes(event.text, event.signature)
            return texts + _data_bytes(event.provider_state)
        case TextInfo():
            return _data_bytes(event.provider_state)
        case ToolCallStarted():
            return _texts_bytes(event.id, event.name)
        case ToolCall():
            texts = _texts_bytes(event.id, event.name, event.arguments_json)
            return texts + _data_bytes(event.provider_state)
        case InvalidToolCall():
            return _texts_bytes(event.id, event.name, event.arguments_text)
        case Citation():
            return _CITATION_BYTES + _texts_bytes(event.cited_text, event.url, event.title)
        case Logprobs():
            return _logprobs_bytes(event.tokens)
        case Notice():
            return _texts_bytes(event.model)
        case JsonValue():
            return _texts_bytes(event.pointer, event.value_json)
        case JsonResult():
            return sum(
                _VIOLATION_BYTES + _texts_bytes(violation.pointer, violation.description)
                for violation in event.violations
            )
        case Finished() if event.refusal is not None:
            return _texts_bytes(event.refusal.category, event.refusal.explanation)
    return 0  # the rest is in STREAM_BYTES


def _logprobs_bytes(tokens: tuple[TokenLogprob, ...]) -> int:
    if not tokens:
        return 0
    return sys.getsizeof(()) + sum(
        _LOGPROB_BYTES
        + _text_bytes(token.token)
        + _data_bytes(token.token_bytes)
        + _logprobs_bytes(token.top)
        for token in tokens
    )


def _data_bytes(data: bytes) -> int:
    return sys.getsizeof(data) if data else 0


def _texts_bytes(*texts: str) -> int:
    return sum(map(_text_bytes, texts))


def _text_bytes(text: str) -> int:
    """Return the size of a string in memory (CPython 3.11).

    That is 1, 2 or 4 bytes for each character, depending on the widest one. Unless the string is ASCII, its
    UTF-8 is added, because CPython keeps it with the string while a message is written. `getsizeof` is not
    used, because its result depends on whether the UTF-8 is already there.
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
