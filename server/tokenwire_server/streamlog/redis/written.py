"""A log of this process, and how much of it is stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from ...events import Event
from ..base import StreamLog
from ..entries import StreamFacts
from ..memory import entry_bytes
from .store import Append, LogId, Outcome, Result

MAX_ENTRIES = 1024
"""Maximum number of entries in one batch."""
MAX_BATCH_BYTES = 64 * 1024
"""Maximum memory of the entries in one batch, unless there is only one. A round trip carries many batches."""


class StoredStream(Protocol):
    """The part of a stream that the writer uses."""

    @property
    def id(self) -> str: ...

    @property
    def log(self) -> StreamLog: ...

    @property
    def end_time(self) -> float | None:
        """When the stream ended, in seconds since the epoch, or None while it is open."""
        ...

    @property
    def facts(self) -> StreamFacts: ...

    @property
    def is_read_elsewhere(self) -> bool:
        """Whether other processes read the log."""
        ...


class ReleasedLog:
    """The rest of a log that the process drops. It takes the place of the stream and of its log."""

    __slots__ = (
        "_entries",
        "after_sequence",
        "byte_count",
        "earliest_sequence",
        "end_time",
        "facts",
        "failure",
        "id",
        "last_sequence",
    )

    sealed = True
    is_read_elsewhere = True  # it is stored as soon as possible

    def __init__(self, stream: StoredStream, after_sequence: int) -> None:
        """`after_sequence` is the last one that is stored."""
        log = stream.log
        after_sequence = max(after_sequence, log.earliest_sequence - 1)
        self.id = stream.id
        self.facts = stream.facts
        self.end_time = stream.end_time
        self.failure = log.failure
        self.earliest_sequence = log.earliest_sequence
        self.last_sequence = log.last_sequence
        self.after_sequence = after_sequence
        self._entries: list[Event] = []
        while rest := log.read(after_sequence + len(self._entries)):
            self._entries += rest
        self.byte_count = sum(map(entry_bytes, self._entries))
        """Memory of the entries."""

    @property
    def log(self) -> Self:
        return self

    def read(self, after_sequence: int) -> Sequence[Event]:
        return self._entries[after_sequence - self.after_sequence :]


class WrittenLog:
    """A log, and how much of it is stored."""

    __slots__ = (
        "_appending",
        "ended_at",
        "id",
        "is_end_stored",
        "replaces",
        "stored",
        "stream",
        "wake",
    )

    def __init__(self, id: LogId, stream: StoredStream, wake: Callable[[], None]) -> None:
        self.id = id
        self.stream: StoredStream | ReleasedLog = stream
        self.wake = wake
        self.stored = 0
        """The last sequence that is stored."""
        self.is_end_stored = False
        """Whether the seal is stored too."""
        self.ended_at: float | None = None
        """When the seal was first about to be stored, a value of `time.monotonic`."""
        self.replaces = False
        """Whether the next batch replaces what is stored."""
        self._appending: Append | None = None  # the batch whose result counts

    @property
    def is_due(self) -> bool:
        """Whether there is something to store."""
        log = self.stream.log
        return self.stored < log.last_sequence or (log.sealed and not self.is_end_stored)

    @property
    def is_released(self) -> bool:
        """Whether only the rest of the log is left."""
        return isinstance(self.stream, ReleasedLog)

    @property
    def is_prompt(self) -> bool:
        """Whether the log is stored as soon as possible."""
        return self.stream.is_read_elsewhere or not self.stored

    def next_append(self, open_ttl_s: float) -> Append:
        """Return the next batch to store."""
        stream, log = self.stream, self.stream.log
        earliest = log.earliest_sequence
        self.stored = max(self.stored, earliest - 1)  # the entries between are dropped
        entries = _batch(log.read(self.stored)[:MAX_ENTRIES])
        ends = log.sealed and self.stored + len(entries) == log.last_sequence
        self._appending = Append(
            self.id,
            stream.facts,
            self.stored + 1,
            entries,
            earliest,
            self._left_s() if ends else open_ttl_s,
            log.failure if ends else None,
            stream.end_time if ends else None,
            self.replaces,
        )
        return self._appending

    def _left_s(self) -> float:
        """Return how much longer an ended log is kept, however often it is stored again."""
        now = time.monotonic()
        if self.ended_at is None:
            self.ended_at = now
        return max(0.0, self.ended_at + self.stream.facts.log_ttl_s - now)

    def take(self, append: Append, result: Result) -> None:
        """Take over the result of a batch. Ignore it if the stored log must be checked again since."""
        if self._appending is not append:
            return
        self.stored = result.last_sequence
        if result.outcome == Outcome.STORED:
            self.is_end_stored = append.has_end
            self.replaces = False

    def check_again(self) -> None:
        """Store the last entry again. If Redis has lost the log, all of it is stored again."""
        if self.is_released:
            return
        self.stored = max(0, self.stored - 1)
        self.is_end_stored = False
        self._appending = None

    def restart(self) -> None:
        """Store the whole log again."""
        self.stored = 0
        self.is_end_stored = False
        self.replaces = True
        self._appending = None


def _batch(entries: Sequence[Event]) -> Sequence[Event]:
    """Return the first entries, as many as fit in a batch, and at least one."""
    byte_count = 0
    for index, entry in enumerate(entries):
        byte_count += entry_bytes(entry)
        if index and byte_count > MAX_BATCH_BYTES:
            return entries[:index]
    return entries
