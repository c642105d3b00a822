"""Looks for the logs of other processes' streams, when calls ask for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ...errors import SHARED_LOG, StoreUnavailable
from ...turns import Turns
from ..entries import UnknownFormat
from .messages import ReadersMessage, RestoreMessage
from .presence import Presence
from .store import DamagedLog, LogStore, StoredPart

logger = logging.getLogger(__name__)

READER_LEASE_S = 5.0
"""How long batches are sent to a process that has not renewed its lease. Also how long a copy waits for
Redis, or for data that Redis has lost, before its readers get an error."""
UNKNOWN_WAIT_S = 1.0
"""How long an unknown stream is looked for: its owner may just have opened it. A stream of another tenant is
looked for as long."""
UNKNOWN_EVERY_S = 0.05
"""Pause before it is looked for again."""
MAX_UNKNOWN = 1024
"""Maximum number of streams that are looked for again. The next unknown one gets STREAM_NOT_FOUND at once."""
MAX_WAITING_LOOKUPS = 4096
"""Maximum number of lookups that wait. Tenants share it."""
LOOKUP_WAIT_S = 5.0
"""The longest time that a lookup waits."""
REPAIR_EVERY_S = 0.2
"""Pause before another attempt to read entries that Redis lacks."""


class Lookups:
    """Looks for logs, a bounded number at once, in rotation among tenants. Belongs to one event loop."""

    def __init__(self, store: LogStore, presence: Presence, process: str, at_once: int) -> None:
        self._store = store
        self._presence = presence
        self._process = process
        self._turns = Turns(
            max_waiting=MAX_WAITING_LOOKUPS,
            refusal="too many calls wait for the log that servers share",
            at_once=at_once,
        )
        self._unknown_count = 0

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait until a call of a tenant may send commands to Redis in the block.

        Raises StoreUnavailable after LOOKUP_WAIT_S, and Overloaded if too many wait.
        """
        try:
            async with asyncio.timeout(LOOKUP_WAIT_S) as wait, self._turns.turn(tenant, 1):
                wait.reschedule(None)
                yield
        except TimeoutError:
            raise unavailable_because(f"no turn within {LOOKUP_WAIT_S:g} s") from None

    async def find(self, stream_id: str, tenant: str, *, reads: bool) -> StoredPart | None:
        """Return the beginning of a tenant's log, or its end if nobody will read it.

        Look for it for a while if it is unknown or damaged.
        """
        began = time.monotonic()
        message = ReadersMessage(stream_id, self._process, 1 if reads else 0)
        is_looked_for = self._unknown_count < MAX_UNKNOWN
        self._unknown_count += 1
        try:
            while True:
                damage = None
                try:
                    async with self.turn(tenant):
                        part = await self._read_first(message, tenant, reads=reads)
                    if part is not None and (part.epoch != self._process or part.is_sealed):
                        return part
                    # An open log of this process is the rest of a stream that has expired.
                except DamagedLog as error:
                    damage = error
                lasted_s = time.monotonic() - began
                if damage is not None and lasted_s > UNKNOWN_WAIT_S:
                    async with self.turn(tenant):
                        if await self._presence.lost_of({damage.owner}):
                            return None
                    if lasted_s > READER_LEASE_S:
                        raise unavailable_because(damage)
                # Redis may have lost the stream, and then its owner stores it again.
                is_recovering = damage is not None or self._presence.is_recovering
                wait_s = READER_LEASE_S if is_recovering else UNKNOWN_WAIT_S
                if lasted_s > wait_s or not is_looked_for:
                    break
                await asyncio.sleep(
                    UNKNOWN_EVERY_S if lasted_s < UNKNOWN_WAIT_S else REPAIR_EVERY_S
                )
        finally:
            self._unknown_count -= 1
        async with self.turn(tenant):
            await self._presence.check_data()
        return None

    async def _read_first(
        self, message: ReadersMessage, tenant: str, *, reads: bool
    ) -> StoredPart | None:
        """Get a lease of a tenant's stream, and read its log. Return None if it is unknown.

        Raises StoreUnavailable, also for an unknown format, and DamagedLog after a message to the owner.
        """
        # The lease comes first: what is stored after it arrives as a message, what was stored before is read.
        id = message.stream_id
        (position,) = await self._store.lease(
            [(id, tenant, message)], self._process, READER_LEASE_S
        )
        if isinstance(position, StoreUnavailable):
            raise position
        if position is None:
            return None
        try:
            if reads:
                return await self._store.read(id, 0)
            return await self._store.read_end(id)
        except DamagedLog as error:
            logger.info("stream %s: %s", id, error)
            await self._store.send([(position.epoch, RestoreMessage(id, self._process))])
            error.owner = position.epoch
            raise
        except UnknownFormat as error:
            raise unavailable_because(error) from error


def unavailable_because(cause: object) -> StoreUnavailable:
    return StoreUnavailable(f"Redis: {cause}", store=SHARED_LOG)
