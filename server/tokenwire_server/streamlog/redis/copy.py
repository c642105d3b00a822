"""A copy of a log that another process writes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ...errors import Failure, ProducerLost, TokenwireError
from ...events import NO_USAGE, Finished, Usage
from ..entries import Batch, StreamFacts
from .copy_log import CopyLog
from .store import Position, StoredPart

MAX_PENDING = 256
"""Maximum number of batches that are kept while the log is being read. If more arrive, it is read again."""

NewLog = Callable[[str, StoredPart], CopyLog]
"""Returns an empty log of a tenant, to which a part of the stored log will be appended. Raises Overloaded."""


class Copy:
    """A copy of one stored log, which local readers read. It grows by batches until it is sealed.

    It is sealed like the log, or fails with an error of its own if it cannot follow the log any more.
    """

    def __init__(self, stream_id: str, owner: str, facts: StreamFacts, log: CopyLog) -> None:
        self.stream_id = stream_id
        self.owner = owner
        """The process that writes the log."""
        self.facts = facts
        self.log = log
        self.usage: Usage = NO_USAGE
        """The usage so far, as the owner reported it last, or the final usage."""
        self.other_reader_count = 0
        """The readers in all other processes, as the owner reported them last."""
        self.is_reported = asyncio.Event()
        """Set once the owner has reported the usage and the readers."""
        self.end_time: float | None = None
        """When the stream ended, in seconds since the epoch, or None while it is open."""
        self.is_cut_off = False
        """Whether the copy cannot follow the log any more. The stream may continue."""
        self.is_abandoned = False
        """Whether the copy failed with an error of its own, and not as the log did."""
        self.is_unknown = False
        """Whether the owner does not have the stream any more."""
        self.count_readers: Callable[[], tuple[int, float | None]] = lambda: (0, None)
        """Returns the number of local readers, and the seconds until their latest deadline."""
        self.on_drop: Callable[[], object] = lambda: None
        """Called when the copy is not kept any more."""
        self.cancels = False
        """Whether a local caller wants the stream to end."""
        self.missing_since: float | None = None
        """Since when Redis does not have the log, although it has ended."""
        # The last sequence of the copy while the owner's log has more, and since when.
        self._behind: tuple[int, float] | None = None
        self._stored: Position | None = None  # what was stored at the last look
        self.unserved_since: float | None = None
        """Since when its server of a cluster does not serve the log, a value of `time.monotonic`."""
        self._pending: deque[Batch] | None = None

    def take(self, batch: Batch) -> bool:
        """Append the new entries of a batch. Return False if entries before it are missing."""
        if self._pending is not None:
            self._pending.append(batch)
            return True
        return self._append(batch)

    def begin_read(self) -> None:
        """Keep the batches that arrive from now on, until `end_read`."""
        self._pending = deque(maxlen=MAX_PENDING)

    def take_part(self, part: StoredPart) -> bool:
        """Append what was read. Return whether the copy is sealed, or has all that was stored then."""
        if part.earliest_sequence > self.log.last_sequence + 1:
            self.log.skip(part.earliest_sequence)
        for batch in part.batches:
            self._append(batch)
        has_all = not part.is_sealed and self.log.last_sequence >= part.last_sequence
        return self.log.sealed or has_all

    def end_read(self) -> bool:
        """Append the batches that were kept. Return False if entries before one of them are missing."""
        pending, self._pending = self._pending or (), None
        return all(self._append(batch) for batch in pending)

    def is_behind_for(self, limit_s: float, owner_sequence: int) -> bool:
        """Return whether no entry came for a time, although the owner's log has more.

        Call this with each last sequence that the owner reports.
        """
        now, last_sequence = time.monotonic(), self.log.last_sequence
        if last_sequence >= owner_sequence:
            self._behind = None
        elif self._behind is None or self._behind[0] != last_sequence:
            self._behind = last_sequence, now
        return self._behind is not None and now - self._behind[1] > limit_s

    def is_unserved_for(self, limit_s: float) -> bool:
        """Return whether the log has not been served for a time. Call this when it is not served."""
        now = time.monotonic()
        if self.unserved_since is None:
            self.unserved_since = now
        return now - self.unserved_since > limit_s

    def is_missing_for(self, limit_s: float, stored: Position | None) -> bool:
        """Return whether Redis has not had the log for a time. Call this with each look at it."""
        now = time.monotonic()
        if stored is not None:
            self.missing_since = None
        elif self.missing_since is None:
            self.missing_since = now
        return self.missing_since is not None and now - self.missing_since > limit_s

    def lacks_what_was(self, stored: Position | None) -> bool:
        """Return whether entries were lost: those that were stored at the last look, and are not here now.

        Call this with each look at the stored log. It is True if Redis does not have the log.
        """
        before, self._stored = self._stored, stored
        if stored is None:
            return True
        return before is not None and (
            before.last_sequence > self.log.last_sequence or before.is_sealed > self.log.sealed
        )

    async def wait_for(self, sequence: int, timeout_s: float) -> None:
        """Wait until the copy has an entry or has ended, or for a time."""
        grown = asyncio.Event()
        self.log.subscribe(grown.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while self.log.last_sequence < sequence and not self.log.sealed:
                        grown.clear()
                        await grown.wait()
        finally:
            self.log.unsubscribe(grown.set)

    def fail(self, error: TokenwireError) -> None:
        """Fail with an error of the copy, unless it is sealed."""
        if self.log.sealed:
            return
        self.is_abandoned = True
        self.is_cut_off = not isinstance(error, ProducerLost)
        last_sequence = self.log.last_sequence
        self.log.fail(Failure.of(error, last_sequence=last_sequence, usage=self.usage))

    def _append(self, batch: Batch) -> bool:
        log = self.log
        if log.sealed:
            return True
        known = log.last_sequence + 1 - batch.first_sequence
        if known < 0:
            return False
        for entry in batch.entries[known:]:
            if isinstance(entry, Finished):
                self.usage, self.end_time = entry.usage, batch.end_time
                log.finish(entry)
            else:
                log.append(entry)
        if batch.failure is not None and not log.sealed:
            self.usage, self.end_time = batch.failure.usage, batch.end_time
            log.fail(batch.failure)
        return True
