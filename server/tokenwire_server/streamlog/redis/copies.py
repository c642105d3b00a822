"""The copies of other processes' logs that this process has for its readers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from ...errors import ProducerLost, StoreUnavailable, StreamNotFound, TokenwireError
from ..entries import UnknownFormat, decode_batch
from .copy import Copy, NewLog
from .copy_leases import MAX_LEASES, CopyLeases
from .copy_reader import CopyReader
from .lookups import READER_LEASE_S, REPAIR_EVERY_S, UNKNOWN_WAIT_S, Lookups, unavailable_because
from .messages import StatusMessage
from .presence import RENEW_EVERY_S, Presence
from .shared_tasks import SharedTasks
from .store import DamagedLog, LogId, LogStore, MissingLog, Position

logger = logging.getLogger(__name__)

LEASE_EVERY_S = 1.4
"""How often leases are renewed."""
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
        self._reader = CopyReader(store)
        self._leases = CopyLeases(store, process)
        self._presence = presence
        self._new_log = new_log
        self._copies: dict[str, Copy] = {}  # those that are followed, by stream id
        self._opening = SharedTasks[tuple[str, str], Copy | None](self._opened)
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

        With `reads`, it has all entries that are stored, and a reader must join it before the next await.
        Returns None if the tenant has no such stream. A copy without readers is kept for IDLE_S. Raises
        StoreUnavailable, Overloaded. Cancellation leaves nothing behind.
        """
        key = stream_id, tenant
        while True:
            opening, copy = self._opening.get(key), self._copies.get(stream_id)
            if opening is None:
                if copy is not None and copy.is_abandoned:
                    self.drop(copy)  # it may be possible to follow the log again
                    copy = None
                if copy is None or copy.facts.tenant != tenant:
                    opening = self._opening.start(key, self._open(stream_id, tenant, reads=reads))
                elif reads and copy.log.is_partial:
                    opening = self._opening.start(key, self._read_beginning(copy))
                else:
                    break
            copy = await self._opening.result_of(opening)
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
        """Stop following a copy. Its readers get the error."""
        if self._copies.get(copy.stream_id) is copy:
            del self._copies[copy.stream_id]
        timer = self._idle.pop(copy, None)
        if timer is not None:
            timer.cancel()
        self._incomplete.pop(copy, None)
        self._changed.discard(copy)
        self._lost.discard(copy)
        copy.on_drop()
        copy.fail(error or unavailable_because("this server no longer follows the log"))
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
                lost = await self._presence.lost_of({copy.owner for copy in self._open_copies()})
            except StoreUnavailable as error:  # a Redis that is full may still serve `run`
                self._check_service(error)
            else:
                self._present_at = time.monotonic()
                if self._presence.was_lost:
                    self._presence.was_lost = False
                    self.on_renewal()
                self._lost.update(copy for copy in self._open_copies() if copy.owner in lost)
                if self._lost:
                    self._has_work.set()
            await asyncio.sleep(RENEW_EVERY_S)

    def close(self) -> None:
        """Drop all copies. Their readers get STORE_UNAVAILABLE."""
        self._opening.cancel_all()
        self.drop_all(unavailable_because("the process ends"))

    def drop_all(self, error: TokenwireError) -> None:
        """Drop all copies. Readers of those that are open get the error."""
        for copy in list(self._copies.values()):
            self.drop(copy, error)

    # Messages.

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
        copy.usage, copy.other_reader_count = message.usage, message.other_reader_count
        if copy.is_behind_for(READER_LEASE_S, message.last_sequence):
            self.drop(copy, unavailable_because("the owner of the stream cannot store it"))
        copy.is_reported.set()
        return copy

    # Following.

    def _opened(self, copy: Copy | None) -> None:
        if copy is not None:  # all that wait for it may have been cancelled
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
        try:
            async with self.lookups.turn(copy.facts.tenant):
                await self._reader.read_beginning(copy)
        except (DamagedLog, UnknownFormat):
            self.drop(copy)
            return await self._open(copy.stream_id, copy.facts.tenant, reads=True)
        finally:
            self._keep(copy)
        return copy

    async def _read(self, copy: Copy) -> None:
        """Read what a copy lacks. Raises StoreUnavailable, DamagedLog, UnknownFormat."""
        await self._reader.read_rest(copy)
        self._keep(copy)

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
            except (DamagedLog, UnknownFormat) as error:
                if copy.is_unknown and isinstance(error, MissingLog):
                    self.drop(copy, StreamNotFound())  # it has expired
                    continue
                logger.warning("stream %s: %s", copy.stream_id, error)
            except StoreUnavailable as error:
                self._is_unserved(copy, error)
                raise
            self._lose(copy)

    async def _renew_leases(self, copies: Sequence[Copy]) -> None:
        for start in range(0, len(copies), MAX_LEASES):
            some = copies[start : start + MAX_LEASES]
            self._changed.difference_update(some)
            found = await self._leases.renew(some)
            for copy, position in zip(some, found, strict=True):
                if isinstance(position, StoreUnavailable):
                    self._is_unserved(copy, position)
                else:
                    copy.unserved_since = None
                    self._check_position(copy, position)
            # Either Redis has lost these logs, or they have expired.
            missing = [copy for copy in some if copy.missing_since is not None]
            await self._leases.request_restores(missing)

    def _is_unserved(self, copy: Copy, error: StoreUnavailable) -> None:
        """Note that the server of a copy does not serve it. After READER_LEASE_S, its readers fail."""
        if copy.is_unserved_for(READER_LEASE_S) and not copy.log.sealed:
            self.drop(copy, error)

    def _check_position(self, copy: Copy, stored: Position | None) -> None:
        """Find out whether entries were lost that were stored at the last look, or the whole log."""
        if stored is not None and stored.is_deleted:
            self.on_deleted(copy.stream_id)
            return
        if stored is not None:
            copy.log.note_earliest(stored.earliest_sequence)
        if copy.log.sealed:
            if copy.is_missing_for(UNKNOWN_WAIT_S, stored):
                self.drop(copy)
        elif copy.lacks_what_was(stored):
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
                await self._leases.request_restores([copy])
                asyncio.get_running_loop().call_later(REPAIR_EVERY_S, self._has_work.set)
                continue
            self._incomplete.pop(copy, None)

    def _check_service(self, error: StoreUnavailable) -> None:
        """Drop the copies with an error if Redis has not served this process for READER_LEASE_S."""
        if time.monotonic() - min(self._served_at, self._present_at) > READER_LEASE_S:
            for copy in list(self._open_copies()):
                self.drop(copy, error)

    def _lose(self, copy: Copy) -> None:
        """End a copy whose owner is lost, unless it has ended. Keep it like the copy of an ended stream."""
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
