"""Deletion of old usage records, which is suspended while a clock may be wrong."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from ..errors import StoreUnavailable
from .store import UsageStore

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 60.0
DELETE_BATCH = 1000
"""Records that one transaction deletes."""
SETTLE_S = 3600.0
"""How long nothing is deleted after the process has started, or after the database's clock has jumped."""
MAX_CLOCK_DIFFERENCE_S = 60.0
IDLE_S = 86_400.0
IDLE_SETTLE_S = 86_400.0


class Retention:
    """Deletes closed records that were created, and last written, more than `keep_s` ago.

    The database's clock decides what is old. Deleted records cannot be restored, so a wrong clock must not
    delete any. Nothing is deleted:

    - in the first SETTLE_S of this process,
    - while the database's clock and this process's differ by more than MAX_CLOCK_DIFFERENCE_S,
    - for SETTLE_S after the database's clock has jumped by more than that against the monotonic clock,
    - in the first IDLE_SETTLE_S, if there are old records when the process starts, and none that is
      IDLE_SETTLE_S to IDLE_SETTLE_S + IDLE_S old.

    The last rule is for SQLite, which uses this machine's clock: if the clock was wrong before the process
    started, this looks like a server that was idle for a long time. A warning is logged, and the operator
    has a day to correct the clock, even if the server was used and restarted meanwhile.
    """

    def __init__(
        self,
        store: UsageStore,
        keep_s: float,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._keep_s = keep_s
        self._clock = clock
        self._monotonic = monotonic
        self._settled_at = monotonic() + SETTLE_S
        self._check_at = -math.inf
        self._clock_offset_s: float | None = None  # the database's clock minus the monotonic one
        self._clocks_differ = False

    async def run_due(self) -> None:
        """Delete one batch if it is due. Errors of the database are logged, not raised."""
        if self._monotonic() < self._check_at:
            return
        try:
            deleted = await self._delete_batch()
        except StoreUnavailable as error:
            logger.error(  # noqa: TRY400  # the detail says enough without a traceback
                "old usage records cannot be deleted: %s; next attempt in %g s",
                error.detail,
                CHECK_EVERY_S,
            )
            deleted = 0
        if deleted:
            logger.info(
                "deleted %d usage records older than %g days", deleted, self._keep_s / 86400
            )
        if deleted < DELETE_BATCH:  # otherwise there may be more
            self._check_at = self._monotonic() + CHECK_EVERY_S

    async def _delete_batch(self) -> int:
        database_time = await self._store.database_time()
        if self._clock_offset_s is None:
            await self._check_newest(database_time)
        if not self._clocks_agree(database_time) or self._monotonic() < self._settled_at:
            return 0
        return await self._store.delete_before(database_time - self._keep_s, DELETE_BATCH)

    async def _check_newest(self, database_time: float) -> None:
        newest = await self._store.newest_time(before=database_time - IDLE_SETTLE_S)
        if newest is not None and database_time - newest > IDLE_SETTLE_S + IDLE_S:
            self._settled_at += IDLE_SETTLE_S - SETTLE_S
            logger.warning(
                "the newest usage record before the last %g h is %.1f days old: if the clock is wrong, "
                "correct it within %g h, after which old records are deleted",
                IDLE_SETTLE_S / 3600,
                (database_time - newest) / 86400,
                IDLE_SETTLE_S / 3600,
            )

    def _clocks_agree(self, database_time: float) -> bool:
        now = self._monotonic()
        offset_s = database_time - now
        jump_s = 0.0 if self._clock_offset_s is None else offset_s - self._clock_offset_s
        self._clock_offset_s = offset_s
        if abs(jump_s) > MAX_CLOCK_DIFFERENCE_S:
            self._settled_at = max(self._settled_at, now + SETTLE_S)
            logger.warning(
                "the database's clock has jumped by %+.0f s: no usage record is deleted for %g s",
                jump_s,
                SETTLE_S,
            )
        ahead_s = database_time - self._clock()
        differ = abs(ahead_s) > MAX_CLOCK_DIFFERENCE_S
        if differ and not self._clocks_differ:
            logger.warning(
                "no usage record is deleted: the database's clock differs by %+.0f s from this "
                "process's",
                ahead_s,
            )
        elif self._clocks_differ and not differ:
            logger.info("the clocks agree again: old usage records are deleted")
        self._clocks_differ = differ
        return not differ
