"""The copies of other processes' logs that this process has for its readers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from ...errors import ProducerLost, StoreUnavailable, StreamNotFound, TokenwireError
from ...events import Event
from ..entries import UnknownFormat, decode_batch
from .copy import Copy, NewLog
from .lookups import READER_LEASE_S, REPAIR_EVERY_S, UNKNOWN_WAIT_S, Lookups, unavailable_because
from .messages import CancelMessage, Message, ReadersMessage, RestoreMessage, StatusMessage
from .presence import RENEW_EVERY_S, Presence
from .store import DamagedLog, LogId, LogStore, MissingLog, Position, StoredPart

logger = logging.getLogger(__name__)

LEASE_EVERY_S = 1.4
"""How often leases are renewed."""
MAX_LEASES = 256
"""Maximum number of leases, and of messages that cancel streams, in one round trip."""
IDLE_S, SEALED_IDLE_S = 10.0, 0.5
"""How long a copy is kept without readers. A sealed log is read from Redis again, if it is still there."""


class Copies:
    """Follows the logs of other processes. Belongs to one event loop.

    A copy gets the batches that its owner stores as messages. What messages do not bring is read from the
    store: the beginning, and what got lost. Every wait for Redis or the owner ends within READER_LEASE_S and
    the time limit of a command, and then the readers get an error with its reason.
    """

    def __init__(
        self,
        store: LogStore,
        presence: Presence,
        process: str,
        new_log: NewLog,
        *,
        max_lookups: int,
    ) -> None:
        """`max_lookups` is how many streams are looked up for callers at once."""
        self._store = store
        self._presence = presence
        self._process = process
        self._new_log = new_log
        self._copies: dict[str, Copy] = {}  # those that are followed, by stream id
        self._opening: dict[tuple[str, str], asyncio.Task[Copy | None]] = {}
        self._incomplete: dict[Copy, float] = {}  # with the time since when they lack entries
        self._changed: set[Copy] = set()  # those whose readers have changed, or that were cancelled
        self._lost: set[Copy] = set()  # those whose owner is lost
        self._idle: dict[Copy, asyncio.TimerHandle] = {}
        self._has_work = asyncio.Event()
        self.lookups = Lookups(store, presence, process, max_lookups)
        self.is_subscribed = False
        """Whether messages arrive."""
        self._served_at = time.monotonic()  # when Redis served this process last
        self._present_at = self._served_at  # when it renewed the lease of this process
        self.on_deleted: Callable[[str], None] = lambda _stream_id: None
        """Called with the id of a stream of which there is a copy, and that a caller has deleted."""
        self.on_renewal: Callable[[], None] = lambda: None
        """Called when this process had lost its own lease, so that Redis may have lost everything."""

    @property
    def count(self) -> int:
        """The number of copies."""
        return len(self._copies)

    def get(self, stream_id: str) -> Copy | None:
        """Return the copy of a stream's log, if there is one."""
        return self._copies.get(stream_id)

    async def open(self, stream_id: str, tenant: str, *, reads: bool) -> Copy | None:
        """Return a copy of a stream's log that has the last entries that are stored now.

        `reads` is whether a reader will join it, which must do so before the next await. Then it has all
        entries. Returns None if the
        tenant has no such stream. A copy without readers is kept for IDLE_S. Raises StoreUnavailable,
        Overloaded. Cancellation leaves nothing behind.
        """
        key = stream_id, tenant
        while True:
            opening, copy = self._opening.get(key), self._copies.get(stream_id)
            if opening is None:
                if copy is not None and copy.is_abandoned:
                    self.drop(copy)  # it may be possible to follow the log again
                    copy = None
                if copy is None or copy.facts.tenant != tenant:
                    opening = asyncio.create_task(self._open(stream_id, tenant, reads=reads))
                elif reads and copy.log.is_partial:
                    opening = asyncio.create_task(self._read_beginning(copy))
                else:
                    break
                self._opening[key] = opening
                opening.add_done_callback(partial(self._opened, key))
            copy = await _result_of(opening)
            if copy is None or copy.is_abandoned or not (reads and copy.log.is_partial):
                break
        if copy is None or copy.facts.tenant != tenant:
            return None
        self._keep(copy)
        return copy

    def may_lack(self, copy: Copy) -> bool:
        """Return whether a copy may lack entries that its owner had stored, or could not store."""
        is_incomplete = copy in self._incomplete or not self.is_subscribed
        return is_incomplete or self._presence.is_recovering

    def readers_changed(self, copy: Copy) -> None:
        """Tell the owner how many readers a copy has. Without readers, it is dropped after IDLE_S."""
        self._keep(copy)
        self._announce(copy)

    def cancel(self, copy: Copy) -> None:
        """Ask the owner to end the stream, until it has ended."""
        copy.cancels = True
        self._announce(copy)

    def drop(self, copy: Copy, error: TokenwireError | None = None) -> None:
        """Follow a copy no more. Its readers get the error."""
        if self._copies.get(copy.stream_id) is copy:
            del self._copies[copy.stream_id]
        timer = self._idle.pop(copy, None)
        if timer is not None:
            timer.cancel()
        self._incomplete.pop(copy, None)
        self._changed.discard(copy)
        self._lost.discard(copy)
        copy.on_drop()
        copy.fail(error or unavailable_because("the log is not followed any more"))
        if not copy.count_readers()[0]:
            copy.log.drop()

    async def run(self) -> None:
        """Follow the logs until cancelled."""
        next_lease = 0.0
        while True:
            wait_s = min(RENEW_EVERY_S, next_lease - time.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wait_s)):
                    await self._has_work.wait()
            self._has_work.clear()
            now = time.monotonic()
            try:
                if now >= next_lease:
                    next_lease = now + LEASE_EVERY_S
                    # Also of those that have ended: this process must learn that they are deleted.
                    await self._renew_leases(list(self._copies.values()))
                elif self._changed:
                    await self._renew_leases(list(self._changed))
                await self._end_lost(next_lease)
                await self._complete(next_lease)
            except StoreUnavailable as error:
                next_lease = 0.0  # what was not sent is repeated
                await asyncio.sleep(REPAIR_EVERY_S)
                self._check_service(error)
            else:
                if self.is_subscribed:
                    self._served_at = time.monotonic()
                else:
                    self._check_service(unavailable_because("no connection for messages"))

    async def run_presence(self) -> None:
        """Renew the lease of this process, and look for owners that are lost, until cancelled.

        This does not wait for `run`. If the lease were late, readers elsewhere would lose the streams of this
        process.
        """
        while True:
            try:
                await self._renew_presence()
            except StoreUnavailable as error:  # a Redis that is full may still serve `run`
                self._check_service(error)
            else:
                self._present_at = time.monotonic()
            await asyncio.sleep(RENEW_EVERY_S)

    def close(self) -> None:
        """Drop all copies. Their readers get STORE_UNAVAILABLE."""
        for opening in list(self._opening.values()):
            opening.cancel()
        self.drop_all(unavailable_because("the process ends"))

    def drop_all(self, error: TokenwireError) -> None:
        """Drop all copies. Readers of those that are open get the error."""
        for copy in list(self._copies.values()):
            self.drop(copy, error)

    # What arrives.

    def subscribed(self) -> None:
        """Read what messages did not bring while there was no connection."""
        self.is_subscribed = True
        for copy in self._open_copies():
            self._lacks(copy)

    def unsubscribed(self) -> None:
        """Note that messages are lost."""
        self.is_subscribed = False

    def got_batch(self, log: LogId, data: bytes) -> None:
        """Append a batch to the copy of its log."""
        copy = self._copies.get(log.stream_id)
        if copy is None or copy.owner != log.epoch:
            return
        try:
            batch = decode_batch(data)
        except UnknownFormat as error:
            self.drop(copy, unavailable_because(error))
            return
        if not copy.take(batch):
            self._lacks(copy)
        elif copy.log.sealed:
            self._keep(copy)

    def got_status(self, message: StatusMessage) -> Copy | None:
        """Take over what the owner of a stream reports. Return the copy, if it is open."""
        copy = self._copies.get(message.stream_id)
        if copy is None or copy.log.sealed:
            return None
        if not message.is_known:
            # Its end may be stored, and have been published in a message that comes later or was lost.
            copy.is_unknown = True
            self._lost.add(copy)
            self._has_work.set()
            return None
        copy.usage, copy.reader_count = message.usage, message.reader_count
        self._check_progress(copy, message.last_sequence)
        copy.is_reported.set()
        return copy

    # Following.

    def _opened(self, key: tuple[str, str], opening: asyncio.Task[Copy | None]) -> None:
        self._opening.pop(key, None)
        # All that wait for it may have been cancelled.
        if not opening.cancelled() and opening.exception() is None:
            copy = opening.result()
            if copy is not None:
                self._keep(copy)

    async def _open(self, stream_id: str, tenant: str, *, reads: bool) -> Copy | None:
        part = await self.lookups.find(stream_id, tenant, reads=reads)
        if part is None:
            return None
        log = self._new_log(tenant, part)
        copy = Copy(stream_id, part.epoch, part.facts, log)
        self._copies[stream_id] = copy
        copy.take_part(part)
        try:
            async with self.lookups.turn(tenant):
                await self._read(copy)
                if not copy.log.sealed and await self._presence.lost_of({copy.owner}):
                    self._lose(copy)
        except (DamagedLog, UnknownFormat):
            self._lacks(copy)
        except BaseException:
            self.drop(copy, unavailable_because("the log was not read"))
            raise
        return copy

    async def _read_beginning(self, copy: Copy) -> Copy | None:
        """Read the entries before those that a copy has. It is kept meanwhile."""
        timer = self._idle.pop(copy, None)
        if timer is not None:
            timer.cancel()
        entries: list[Event] = []
        after, earliest = 0, 1
        try:
            async with self.lookups.turn(copy.facts.tenant):
                while after + 1 < copy.log.first_sequence:
                    part = await self._read_part(copy, after)
                    if not part.batches:
                        raise DamagedLog("the stored log lacks its end")
                    if part.batches[0].first_sequence > after + 1:  # what was before it is dropped
                        entries.clear()
                    for batch in part.batches:
                        entries += batch.entries
                    after, earliest = part.batches[-1].last_sequence, part.earliest_sequence
        except (DamagedLog, UnknownFormat):
            self.drop(copy)
            return await self._open(copy.stream_id, copy.facts.tenant, reads=True)
        finally:
            self._keep(copy)
        first = after + 1 - len(entries)
        dropped = max(0, earliest - first)
        copy.log.prepend(first + dropped, entries[dropped:])
        return copy

    async def _read(self, copy: Copy) -> None:
        """Read from the store what a copy lacks. Raises StoreUnavailable, DamagedLog, UnknownFormat."""
        while not copy.log.sealed:
            copy.begin_read()
            try:
                has_all = False
                while not has_all:
                    part = await self._read_part(copy, copy.log.last_sequence)
                    has_all = copy.take_part(part)
                    if not has_all and not part.batches:
                        raise DamagedLog("the stored log lacks its end")
            finally:
                has_all_since = copy.end_read()
            if has_all_since:
                break
        self._keep(copy)

    async def _read_part(self, copy: Copy, after_sequence: int) -> StoredPart:
        part = await self._store.read(copy.stream_id, after_sequence)
        if part is None:
            raise MissingLog("Redis does not have the log")
        if part.epoch != copy.owner:
            raise DamagedLog("another process stores a log with this id")
        return part

    async def _renew_presence(self) -> None:
        owners = {copy.owner for copy in self._open_copies()}
        lost = await self._presence.lost_of(owners)
        if self._presence.was_lost:
            self._presence.was_lost = False
            self.on_renewal()
        self._lost.update(copy for copy in self._open_copies() if copy.owner in lost)
        if self._lost:
            self._has_work.set()

    async def _end_lost(self, until: float) -> None:
        """End the copies whose owner is lost, after the last entries that are stored.

        `until` is when the rest is left for the next time, a value of `time.monotonic`.
        """
        for number, copy in enumerate(list(self._lost)):
            if number and time.monotonic() > until:
                self._has_work.set()
                return
            if copy.unserved_since is not None:
                continue
            try:
                await self._read(copy)
            except MissingLog as error:
                if copy.is_unknown:
                    self.drop(copy, StreamNotFound())  # it has expired
                    continue
                logger.warning("stream %s: %s", copy.stream_id, error)
            except (DamagedLog, UnknownFormat) as error:
                logger.warning("stream %s: %s", copy.stream_id, error)
            except StoreUnavailable as error:
                self._is_unserved(copy, error)
                raise
            self._lose(copy)

    async def _renew_leases(self, copies: Sequence[Copy]) -> None:
        for start in range(0, len(copies), MAX_LEASES):
            await self._renew_some(copies[start : start + MAX_LEASES])

    async def _renew_some(self, copies: Sequence[Copy]) -> None:
        self._changed.difference_update(copies)
        await self._store.send(
            [(copy.owner, CancelMessage(copy.stream_id)) for copy in copies if copy.cancels]
        )
        leases: list[tuple[str, str, Message]] = []
        for copy in copies:
            count, left_s = copy.count_readers()
            message = ReadersMessage(copy.stream_id, self._process, count, left_s)
            leases.append((copy.stream_id, copy.facts.tenant, message))
        found = await self._store.lease(leases, self._process, READER_LEASE_S)
        for copy, position in zip(copies, found, strict=True):
            if isinstance(position, StoreUnavailable):
                self._is_unserved(copy, position)
            else:
                copy.unserved_since = None
                self._check_position(copy, position)
        # Redis may have lost them. If it has not, they have expired.
        await self._store.send(
            [
                (copy.owner, RestoreMessage(copy.stream_id, self._process))
                for copy in copies
                if copy.missing_since is not None
            ]
        )

    def _is_unserved(self, copy: Copy, error: StoreUnavailable) -> None:
        """Note that the server of a copy does not serve it. After READER_LEASE_S, its readers fail."""
        now = time.monotonic()
        if copy.unserved_since is None:
            copy.unserved_since = now
        elif now - copy.unserved_since > READER_LEASE_S and not copy.log.sealed:
            self.drop(copy, error)

    def _check_progress(self, copy: Copy, last_sequence: int) -> None:
        """Let the readers fail if no entry came for READER_LEASE_S, although the owner's log has more."""
        now, behind_at = time.monotonic(), copy.log.last_sequence
        if behind_at >= last_sequence:
            copy.behind = None
        elif copy.behind is None or copy.behind[0] != behind_at:
            copy.behind = behind_at, now
        elif now - copy.behind[1] > READER_LEASE_S:
            self.drop(copy, unavailable_because("the owner of the stream cannot store it"))

    def _check_position(self, copy: Copy, stored: Position | None) -> None:
        """Compare a copy with what was stored at the last look: what is still missing now was lost."""
        if stored is not None and stored.is_deleted:
            self.on_deleted(copy.stream_id)
            return
        if stored is not None:
            copy.log.note_earliest(stored.earliest_sequence)
        if copy.log.sealed:
            now = time.monotonic()
            if stored is not None:
                copy.missing_since = None
            elif copy.missing_since is None:
                copy.missing_since = now
            elif now - copy.missing_since > UNKNOWN_WAIT_S:
                self.drop(copy)
            return
        before, copy.stored = copy.stored, stored
        is_behind = before is not None and (
            before.last_sequence > copy.log.last_sequence or before.is_sealed > copy.log.sealed
        )
        if stored is None or is_behind:
            self._lacks(copy)

    async def _complete(self, until: float) -> None:
        """Read what copies lack. See `_end_lost` for `until`."""
        for number, (copy, since) in enumerate(list(self._incomplete.items())):
            if number and time.monotonic() > until:
                self._has_work.set()
                return
            if copy.unserved_since is not None:
                continue
            try:
                if not copy.log.sealed:
                    await self._read(copy)
            except StoreUnavailable as error:
                self._is_unserved(copy, error)
                raise
            except UnknownFormat as error:
                self.drop(copy, unavailable_because(error))
            except DamagedLog as error:
                if time.monotonic() - since > READER_LEASE_S:
                    self.drop(copy, unavailable_because(error))
                    continue
                await self._store.send(
                    [(copy.owner, RestoreMessage(copy.stream_id, self._process))]
                )
                asyncio.get_running_loop().call_later(REPAIR_EVERY_S, self._has_work.set)
                continue
            self._incomplete.pop(copy, None)

    def _check_service(self, error: StoreUnavailable) -> None:
        """Let the readers fail if Redis has not served this process for too long."""
        if time.monotonic() - min(self._served_at, self._present_at) > READER_LEASE_S:
            for copy in list(self._open_copies()):
                self.drop(copy, error)

    def _lose(self, copy: Copy) -> None:
        """End a copy whose owner is lost, unless it has ended. It is kept like that of an ended stream."""
        self._lost.discard(copy)
        copy.fail(ProducerLost())
        self._keep(copy)

    def _open_copies(self) -> Iterable[Copy]:
        return [copy for copy in self._copies.values() if not copy.log.sealed]

    def _lacks(self, copy: Copy) -> None:
        self._incomplete.setdefault(copy, time.monotonic())
        self._has_work.set()

    def _announce(self, copy: Copy) -> None:
        if not copy.log.sealed:
            self._changed.add(copy)
            self._has_work.set()

    def _keep(self, copy: Copy) -> None:
        """Keep a copy while it has readers, and IDLE_S or SEALED_IDLE_S longer."""
        timer = self._idle.pop(copy, None)
        if timer is not None:
            timer.cancel()
        if not copy.count_readers()[0] and self._copies.get(copy.stream_id) is copy:
            loop = asyncio.get_running_loop()
            idle_s = SEALED_IDLE_S if copy.log.sealed else IDLE_S
            self._idle[copy] = loop.call_later(idle_s, self.drop, copy)


async def _result_of(opening: asyncio.Task[Copy | None]) -> Copy | None:
    """Wait for a task that several calls wait for. A cancellation of this call does not cancel it."""
    await asyncio.wait((opening,))
    if opening.cancelled():
        raise unavailable_because("the process ends")
    return opening.result()
