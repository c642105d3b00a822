"""Writing of usage records in the background. Streams never wait for the database."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable

from ..errors import StoreUnavailable, operator_text
from .instances import CLOSE_BATCH, CLOSE_EVERY_S, LEASE_S, RENEW_S
from .pending import Pending
from .record import UsageRecord
from .retention import Retention
from .store import UsageStore

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 0.25
CHECKPOINT_EVERY_S = 0.5
"""Interval at which the figures of open streams are collected. They are at most 1 s old when written."""
MAX_BATCH = 1000
"""Maximum number of records that one transaction writes."""
BETWEEN_BATCHES_S = 0.02
"""Pause between two batches. SQLite gives its lock to a process that requests it while it is free."""
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
SLICE_S = 0.002
"""Longest time for which the figures of open streams are collected without a pause for other tasks."""


class Ledger:
    """The usage records of this process's streams.

    `begin`, `checkpoint` and `close` keep a record in memory and return at once. `run` writes it within
    WRITE_EVERY_S. While the database cannot be written, the newest record of each stream waits in memory;
    `Pending` bounds their number.

    A process that is killed loses what was not written: streams that began in its last second, and the last
    second's figures of open streams.
    """

    def __init__(
        self,
        store: UsageStore,
        instance_id: str,
        *,
        max_pending: int = 100_000,
        retention: Retention | None = None,
    ) -> None:
        """`instance_id` identifies this start of the process, see `new_instance_id`. `retention` deletes
        old records; without it they are kept for ever.
        """
        self.written_count = 0
        """Number of records written. A record that is written again counts again."""
        self._store = store
        self.instance_id = instance_id
        self._retention = retention
        self._pending = Pending(max_pending)
        self._turn = asyncio.Lock()  # held while records are taken and written
        self._max_batch = MAX_BATCH
        self._is_failing = False
        self._logged_drops = 0
        self._ended = False
        self._renew_at = self._checkpoint_at = self._close_at = -math.inf

    @property
    def pending_count(self) -> int:
        """Records that are not written yet."""
        return len(self._pending)

    @property
    def dropped_count(self) -> int:
        """Streams that have ended without a record."""
        return self._pending.dropped_count

    def begin(self, record: UsageRecord) -> None:
        """Add the first record of a stream."""
        self._pending.begin(record)

    def checkpoint(self, record: UsageRecord) -> None:
        """Add newer figures of an open stream."""
        self._pending.checkpoint(record)

    def close(self, record: UsageRecord) -> None:
        """Add the last record of a stream."""
        self._pending.close(record)

    async def run(self, open_records: Callable[[], Iterable[UsageRecord]]) -> None:
        """Write records until cancelled or until `flush` is called. No error ends it.

        Every CHECKPOINT_EVERY_S it iterates over `open_records`, the current records of all open streams.
        Other tasks run during the iteration, so streams may begin and end between two records.

        Cancellation keeps the records that were not written, for `flush`.
        """
        backoff_s = FIRST_BACKOFF_S
        while not self._ended:
            try:
                async with self._turn:
                    has_more = await self.take_turn(open_records)
            except Exception as error:  # noqa: BLE001  # streams continue after any error
                self._log_failure(error)
                # The database is back when a renewal works, not when there is nothing to write.
                self._renew_at = -math.inf
                # Other processes may have lost the database too, and may reconnect later.
                self._close_at = time.monotonic() + LEASE_S
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            else:
                self._log_recovery()
                backoff_s = FIRST_BACKOFF_S
                await asyncio.sleep(BETWEEN_BATCHES_S if has_more else WRITE_EVERY_S)

    async def flush(self, timeout_s: float) -> bool:
        """Write all pending records and release the lease, when the process ends. Records that are added
        later are not written.

        Return whether all were written in time. Call it when all streams have ended: a stream that is
        still open becomes LOST. If the database does not answer, it takes longer than `timeout_s`, unless
        the waits are aborted with `Database.abort_after`.
        """
        self._ended = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._write_all()
        except TimeoutError:
            if self._pending:
                logger.error(  # noqa: TRY400  # a traceback does not help
                    "the usage records of %d streams are not written and are lost: no time is left",
                    self._pending.stream_count,
                )
        self._log_drops()
        return not self._pending

    async def take_turn(self, open_records: Callable[[], Iterable[UsageRecord]]) -> bool:
        """Do everything that is due. Return whether there are more records to write at once."""
        now = time.monotonic()
        if now >= self._renew_at:  # first, so that after an outage no record is closed as lost
            await self._store.instances.renew(self.instance_id)
            self._renew_at = now + RENEW_S
        if now >= self._checkpoint_at:
            self._checkpoint_at = now + CHECKPOINT_EVERY_S
            await self._take_checkpoints(open_records)
        has_more = await self._write_batch()
        if now >= self._close_at:
            closed = await self._store.instances.close_lost()
            self._close_at = now + CLOSE_EVERY_S if closed < CLOSE_BATCH else now
            if closed:
                logger.warning("%d streams are closed as lost: their process is gone", closed)
        if self._retention is not None:
            await self._retention.run_due()
        return has_more

    async def _take_checkpoints(self, open_records: Callable[[], Iterable[UsageRecord]]) -> None:
        until = time.perf_counter() + SLICE_S
        try:
            for record in open_records():
                self._pending.checkpoint(record)
                if time.perf_counter() > until:
                    await asyncio.sleep(0)
                    until = time.perf_counter() + SLICE_S
        except Exception:
            logger.exception("the figures of open streams cannot be collected")

    async def _write_batch(self) -> bool:
        """Write one batch. Return whether it was full."""
        records = self._pending.take(self._max_batch)
        if not records:
            return False
        try:
            figures = [record for record in records if self._pending.is_figures(record)]
            others = [record for record in records if not self._pending.is_figures(record)]
            await self._store.write(others, figures)
        except BaseException:
            self._pending.not_written()
            # If one record is the cause, smaller batches will write the others.
            self._max_batch = max(1, self._max_batch // 2)
            raise
        full = len(records) == self._max_batch
        self.written_count += self._pending.written()
        self._max_batch = min(2 * self._max_batch, MAX_BATCH)
        return full

    async def _write_all(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                async with self._turn:
                    while self._pending:
                        await self._write_batch()
                    await self._store.instances.release(self.instance_id)
            except Exception as error:  # noqa: BLE001  # there may be time to try again
                self._log_failure(error)
                await asyncio.sleep(backoff_s)
                backoff_s *= 2
            else:
                return

    def _log_failure(self, error: Exception) -> None:
        if not self._is_failing:
            logger.error(
                "usage records cannot be written: %s; streams continue, and the records of up to %d "
                "streams are kept in memory",
                operator_text(error),
                self._pending.max_count,
                exc_info=None if isinstance(error, StoreUnavailable) else error,
            )
        self._is_failing = True

    def _log_recovery(self) -> None:
        if self._is_failing:
            logger.warning("usage records can be written again")
        self._is_failing = False
        if len(self._pending) < self._pending.max_count // 2:
            self._log_drops()

    def _log_drops(self) -> None:
        dropped = self.dropped_count - self._logged_drops
        if dropped:
            logger.error(
                "%d streams have ended without a usage record: %d were waiting to be written",
                dropped,
                self._pending.max_count,
            )
        self._logged_drops = self.dropped_count
