"""Stores the logs of this process's streams in Redis, in the background."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from ...errors import StoreUnavailable
from ...telemetry import internal_fault
from .store import Append, LogId, LogStore, Outcome, Result, Unstorable
from .written import ReleasedLog, StoredStream, WrittenLog

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 0.1
"""Pause between two writes of a log. Entries that are appended meanwhile are stored together."""
PROMPT_EVERY_S = 0.002
"""The pause for a log that is new, or that other processes read."""
MAX_APPENDS = 256
"""Maximum number of batches in one round trip."""
MAX_RELEASED_BYTES = 16 * 2**20
"""Maximum memory of entries that are kept of logs that the process has dropped."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 1.0
"""The longest pause after a write that failed. It doubles with each failure."""
UNSERVED_S = 1.0
"""Pause before another attempt to store a log that its server of a cluster did not serve."""


class LogWriter:
    """Stores logs. Never blocks a stream, and no error of Redis ends it. Belongs to one event loop.

    The log in memory is authoritative. What Redis does not have, or has lost, is stored again from there. If
    entries are dropped from memory before they are stored, the stored log begins after them.
    """

    def __init__(self, store: LogStore, process: str, *, open_ttl_s: float) -> None:
        """`process` is the id of this process, and the epoch of its logs. A log is kept in Redis for
        `open_ttl_s` after its first batch, which must be longer than any stream, and after its end for the
        `log_ttl_s` of its stream.
        """
        self._store = store
        self._epoch = process
        self._open_ttl_s = open_ttl_s
        self._logs: dict[str, WrittenLog] = {}  # by stream id
        self._due: dict[str, WrittenLog] = {}  # those with something to store, in order
        self._prompt: dict[
            str, WrittenLog
        ] = {}  # those of them that are stored as soon as possible
        self._unserved: dict[str, WrittenLog] = {}  # those that their server refused
        self._retry: asyncio.TimerHandle | None = None
        self._is_due = asyncio.Event()
        self._is_prompt = asyncio.Event()
        self.is_failing = False
        """Whether the last write failed."""
        self.on_deleted: Callable[[str], None] = lambda _stream_id: None
        """Called with the id of a stream that a caller has deleted elsewhere."""
        self._released_bytes = 0  # memory of what is kept of released logs

    @property
    def due_count(self) -> int:
        """The number of logs with entries that are not stored yet."""
        return len(self._due.keys() | self._unserved.keys())

    def add(self, stream: StoredStream) -> None:
        """Store the log of a stream from now on. If it is stored already, its time to live is set again."""
        written = self._logs.get(stream.id)
        if written is not None and written.is_released:
            self.remove(stream.id)
            written = None
        if written is not None:
            written.check_again()
            if written.is_due:
                self._mark(stream.id)
            return
        wake = partial(self._mark, stream.id)
        self._logs[stream.id] = WrittenLog(LogId(stream.id, self._epoch), stream, wake)
        stream.log.subscribe(wake)
        if stream.log.last_sequence:
            wake()

    def remove(self, stream_id: str) -> None:
        """Stop storing a log. What is stored expires. Idempotent."""
        written = self._logs.pop(stream_id, None)
        if written is not None:
            if isinstance(written.stream, ReleasedLog):
                self._released_bytes -= written.stream.byte_count
            else:
                written.stream.log.unsubscribe(written.wake)
            self._due.pop(stream_id, None)
            self._prompt.pop(stream_id, None)
            self._unserved.pop(stream_id, None)
            self._clear_events()

    def stores(self, stream_id: str) -> bool:
        """Return whether a log is stored by this process, or the rest of it."""
        return stream_id in self._logs

    def release(self, stream_id: str) -> None:
        """Store the rest of a log that has ended, then stop storing it. The log may be dropped then.

        Without its end, what is stored would look like an open stream until it expires.
        """
        written = self._logs.get(stream_id)
        if written is None or isinstance(written.stream, ReleasedLog):
            return
        rest = ReleasedLog(written.stream, written.stored) if written.is_due else None
        if rest is None or self._released_bytes + rest.byte_count > MAX_RELEASED_BYTES:
            self.remove(stream_id)
            return
        written.stream.log.unsubscribe(written.wake)
        written.stream = rest
        self._released_bytes += rest.byte_count
        if stream_id in self._due:
            self._prompt[stream_id] = written
            self._is_prompt.set()

    def hurry(self, stream_id: str) -> None:
        """Store a log as soon as possible if it `is_read_elsewhere`, including what is due already."""
        written = self._due.get(stream_id)
        if written is not None and written.is_prompt:
            self._prompt[stream_id] = written
            self._is_prompt.set()

    def restore(self, stream_id: str) -> None:
        """Store a whole log again, because Redis has lost it or a part of it."""
        written = self._logs.get(stream_id)
        if written is not None and written.stream.log.last_sequence and not written.is_released:
            written.restart()
            self._mark(stream_id)

    async def run(self) -> None:
        """Store what is due until cancelled."""
        backoff_s = FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        next_turn = loop.time()  # when the logs that are not prompt are stored
        while True:
            await self._is_due.wait()
            if not self._prompt:
                await self._wait_for_prompt(next_turn - loop.time())
            try:
                if loop.time() >= next_turn:
                    next_turn = loop.time() + WRITE_EVERY_S
                    await self.store_due()
                else:
                    await self._store_all(self._prompt)
            except StoreUnavailable:
                # Other processes have lost Redis too, and should not come back together.
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311  # not a secret
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            else:
                backoff_s = FIRST_BACKOFF_S
                await asyncio.sleep(PROMPT_EVERY_S)

    async def _wait_for_prompt(self, timeout_s: float) -> None:
        """Wait until a log must be stored as soon as possible, or for a time."""
        if timeout_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._is_prompt.wait()

    async def flush(self, timeout_s: float) -> bool:
        """Store all that is due, when the process ends. Return whether there was time for it."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.due_count:
                    if not self._due:
                        await asyncio.sleep(FIRST_BACKOFF_S)
                        self._store_unserved()
                    await self.store_due()
        except (StoreUnavailable, TimeoutError) as error:
            logger.error("the logs of %d streams are not stored: %r", self.due_count, error)  # noqa: TRY400
        return not self.due_count

    async def store_due(self) -> None:
        """Store one batch of each log that is due.

        Raises StoreUnavailable. Then, and after a cancellation, the same is still due.
        """
        await self._store_all(self._due)

    async def _store_all(self, logs: Mapping[str, WrittenLog]) -> None:
        waiting = list(logs.values())
        for start in range(0, len(waiting), MAX_APPENDS):
            await self._store_some(waiting[start : start + MAX_APPENDS])

    async def _store_some(self, turn: Sequence[WrittenLog]) -> None:
        appends = [written.next_append(self._open_ttl_s) for written in turn]
        try:
            results = await self._store.append(appends)
        except StoreUnavailable as error:
            self._log_failure(error)
            raise
        except Unstorable as error:  # the others are still due
            internal_fault(error)
            self.remove(error.log.stream_id)
            return
        served = self._set_aside(appends, results)
        if self.is_failing and not self._unserved:
            self.is_failing = False
            logger.info("the logs of streams are stored in Redis again")
            self.check_all()
        for append, result in served:
            self._take(append, result)
        self._clear_events()

    def _set_aside(
        self, appends: Iterable[Append], results: Iterable[Result | StoreUnavailable]
    ) -> list[tuple[Append, Result]]:
        """Set aside the logs that were not served, for UNSERVED_S. Return the others."""
        served: list[tuple[Append, Result]] = []
        for append, result in zip(appends, results, strict=True):
            id = append.log.stream_id
            if not isinstance(result, StoreUnavailable):
                self._unserved.pop(id, None)
                served.append((append, result))
            elif (written := self._due.pop(id, None)) is not None:
                self._prompt.pop(id, None)
                self._unserved[id] = written
                self._log_failure(result)
                if self._retry is None:
                    delay_s = UNSERVED_S * random.uniform(0.5, 1.5)  # noqa: S311  # not a secret
                    loop = asyncio.get_running_loop()
                    self._retry = loop.call_later(delay_s, self._store_unserved)
        return served

    def _store_unserved(self) -> None:
        """Store the logs that were set aside, in the next turn."""
        self._retry = None
        self._due.update(self._unserved)
        if self._due:
            self._is_due.set()

    def _clear_events(self) -> None:
        if not self._due:
            self._is_due.clear()
        if not self._prompt:
            self._is_prompt.clear()

    def _take(self, append: Append, result: Result) -> None:
        id = append.log.stream_id
        written = self._logs.get(id)
        if written is None:
            return
        if result.outcome == Outcome.DELETED:
            self.remove(id)
            self.on_deleted(id)
            return
        if result.outcome == Outcome.DISPLACED:
            logger.error("stream %s: another process stores a log with this id", id)
            self.remove(id)
            return
        written.take(append, result)
        if isinstance(written.stream, ReleasedLog) and (
            not written.is_due or written.stored < written.stream.after_sequence
        ):
            self.remove(id)  # all is stored, or Redis has lost what cannot be stored again
            return
        self._due.pop(id, None)
        self._prompt.pop(id, None)
        if written.is_due:
            self._mark(id)

    def _mark(self, stream_id: str) -> None:
        """Note that a log has something to store. Called for each entry."""
        if stream_id in self._due or stream_id in self._unserved:
            return
        written = self._due[stream_id] = self._logs[stream_id]
        self._is_due.set()
        if written.is_prompt:
            self._prompt[stream_id] = written
            self._is_prompt.set()

    def check_all(self) -> None:
        """Check what is stored of each log: Redis may have lost it, and may be another server."""
        for id, written in self._logs.items():
            written.check_again()
            if written.is_due:
                self._mark(id)

    def _log_failure(self, error: StoreUnavailable) -> None:
        if not self.is_failing:
            logger.error("the logs of streams are not stored: %s", error.detail)
        self.is_failing = True
