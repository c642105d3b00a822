"""The way of records into the database: behind the streams, which never wait for it."""

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
"""Figures of open streams are so old at most, and the time until they are written: less than 1 s in all."""
MAX_BATCH = 1000
"""Records that one transaction writes."""
BETWEEN_BATCHES_S = 0.02
"""Between two that follow at once: SQLite's lock goes to who asks for it while it is free."""
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
SLICE_S = 0.002
"""How long figures of open streams are taken before streams go on."""


class Ledger:
    """The records of this process's streams.

    `begin`, `checkpoint` and `close` keep a record in memory and return at once. Whoever runs `run`
    writes them, WRITE_EVERY_S later at most. While the database cannot be written they wait here, one
    for each stream, the newest; `Pending` says what happens when they are too many.

    A process that is killed loses what was not written: what began in its last second, and a second's
    figures of what was open.
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
        """Records written; one of an open stream each time it was."""
        self._store = store
        self.instance_id = instance_id
        self._retention = retention
        self._pending = Pending(max_pending)
        self._turn = asyncio.Lock()  # one at a time takes records and writes
        self._max_batch = MAX_BATCH
        self._lost = False
        self._told_dropped = 0
        self._ended = False
        self._renew_at = self._checkpoint_at = self._close_at = -math.inf

    @property
    def pending_count(self) -> int:
        """Records that are not written yet."""
        return len(self._pending)

    @property
    def dropped_count(self) -> int:
        """Streams that have ended and of which there is no record."""
        return self._pending.dropped_count

    def begin(self, record: UsageRecord) -> None:
        """A stream has begun."""
        self._pending.begin(record)

    def checkpoint(self, record: UsageRecord) -> None:
        """Newer figures of a stream that is open."""
        self._pending.checkpoint(record)

    def close(self, record: UsageRecord) -> None:
        """A stream has ended: its record will not change any more."""
        self._pending.close(record)

    async def run(self, open_records: Callable[[], Iterable[UsageRecord]]) -> None:
        """Write what comes, until cancelled or until `flush` is called. No error ends it.

        Every CHECKPOINT_EVERY_S it takes the records of all open streams as checkpoints, as they are then.
        Streams go on while it does: `open_records` must bear that some begin and end between two of its
        records.

        Cancelled, it has kept all that was not written, for `flush`.
        """
        backoff_s = FIRST_BACKOFF_S
        while not self._ended:
            try:
                async with self._turn:
                    goes_on = await self.take_turn(open_records)
            except Exception as error:  # noqa: BLE001  # whatever it is: streams go on without it
                self._tell_lost(error)
                # It is back once that works, and not because nothing is to be written.
                self._renew_at = -math.inf
                # Others may have been without the database as well, and be back a little later.
                self._close_at = time.monotonic() + LEASE_S
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            else:
                self._tell_back()
                backoff_s = FIRST_BACKOFF_S
                await asyncio.sleep(BETWEEN_BATCHES_S if goes_on else WRITE_EVERY_S)

    async def flush(self, timeout_s: float) -> bool:
        """Write all that is pending and give up the lease, at the end of the process: whether all was
        written in time. What comes later is not written.

        Call it when all streams have ended: a stream that is still open becomes LOST. If the database does
        not answer, it takes longer, unless the waits are aborted with `Database.abort_after`.
        """
        self._ended = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._write_all()
        except TimeoutError:
            if self._pending:
                logger.error(  # noqa: TRY400  # where it waited says nothing
                    "the usage records of %d streams are not written, and are gone: no time is left",
                    self._pending.stream_count,
                )
        self._tell_dropped()
        return not self._pending

    async def take_turn(self, open_records: Callable[[], Iterable[UsageRecord]]) -> bool:
        """All that is due; whether there is more to be done at once."""
        now = time.monotonic()
        if (
            now >= self._renew_at
        ):  # first: back from an outage, records are no longer taken for lost
            await self._store.instances.renew(self.instance_id)
            self._renew_at = now + RENEW_S
        if now >= self._checkpoint_at:
            self._checkpoint_at = now + CHECKPOINT_EVERY_S
            await self._take_checkpoints(open_records)
        goes_on = await self._write_batch()
        if now >= self._close_at:
            closed = await self._store.instances.close_lost()
            self._close_at = now + CLOSE_EVERY_S if closed < CLOSE_BATCH else now
            if closed:
                logger.warning("%d streams are closed as lost: their process is gone", closed)
        if self._retention is not None:
            await self._retention.run_due()
        return goes_on

    async def _take_checkpoints(self, open_records: Callable[[], Iterable[UsageRecord]]) -> None:
        until = time.perf_counter() + SLICE_S
        try:
            for record in open_records():
                self._pending.checkpoint(record)
                if time.perf_counter() > until:
                    await asyncio.sleep(0)
                    until = time.perf_counter() + SLICE_S
        except Exception:
            logger.exception("the figures of open streams cannot be had")

    async def _write_batch(self) -> bool:
        """Write as many as one transaction may hold; whether it was full."""
        records = self._pending.take(self._max_batch)
        if not records:
            return False
        try:
            figures = [record for record in records if self._pending.is_figures(record)]
            others = [record for record in records if not self._pending.is_figures(record)]
            await self._store.write(others, figures)
        except BaseException:
            self._pending.not_written()
            # Should it be for one of them, the others will be written without it.
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
            except Exception as error:  # noqa: BLE001  # there may be time for another try
                self._tell_lost(error)
                await asyncio.sleep(backoff_s)
                backoff_s *= 2
            else:
                return

    def _tell_lost(self, error: Exception) -> None:
        if not self._lost:
            logger.error(
                "usage records cannot be written: %s; streams go on, and the records of %d are kept "
                "until they can",
                operator_text(error),
                self._pending.max_count,
                exc_info=None if isinstance(error, StoreUnavailable) else error,
            )
        self._lost = True

    def _tell_back(self) -> None:
        if self._lost:
            logger.warning("usage records can be written again")
        self._lost = False
        if len(self._pending) < self._pending.max_count // 2:
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        dropped = self.dropped_count - self._told_dropped
        if dropped:
            logger.error(
                "%d streams have ended without a usage record: %d were waiting to be written",
                dropped,
                self._pending.max_count,
            )
        self._told_dropped = self.dropped_count
