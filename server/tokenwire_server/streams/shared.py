"""The streams that this process shares with others, through Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ..config import Limits
from ..errors import (
    SHARED_LOG,
    Draining,
    Overloaded,
    StoreUnavailable,
    StreamFailed,
    StreamNotFound,
)
from ..events import NO_USAGE
from ..streamlog.redis import copies, lookups
from ..streamlog.redis.bus import Bus
from ..streamlog.redis.claims import RequestClaims
from ..streamlog.redis.connect import Redis
from ..streamlog.redis.copy import Copy
from ..streamlog.redis.copy_log import CopyLog
from ..streamlog.redis.messages import (
    AnswerReplacedMessage,
    CancelMessage,
    DeletedMessage,
    Message,
    ReadersMessage,
    RestoreMessage,
    StatusMessage,
)
from ..streamlog.redis.outbox import Outbox
from ..streamlog.redis.presence import Presence
from ..streamlog.redis.store import LogId, LogStore, StoredPart
from ..streamlog.redis.writer import LogWriter
from ..streamlog.space import LogSpace
from ..telemetry.background import keep_running
from .following import follow, note_others
from .handle import ReaderHost, StreamHandle
from .request_ids import RequestIds

RESERVED_CONNECTIONS = 5
"""Connections that lookups for callers do not use. They are for storing logs, renewing leases and exchanging
messages in time."""
REPORT_WAIT_S = 0.5
"""How long a call that asks for the state of another process's stream waits for the report of its owner."""
OPEN_TTL_EXTRA_S = 60.0
"""How much longer than the longest stream the log of an open stream is stored after its last entry."""


class LocalAnswers(Protocol):
    """The cached answers in the memory of this process."""

    def remove(self, stream_id: str) -> None:
        """Remove the answer of a stream. Idempotent."""
        ...

    def remove_all(self) -> None:
        """Remove all answers."""
        ...


class SharedStreams:
    """Stores the logs of this process's streams, and finds those of other processes.

    Belongs to one event loop. Local streams never wait for Redis. `host` admits readers, `space` counts the
    memory of copies, `find_local` returns a stream of this process by its id, and `delete_local` drops one.
    """

    def __init__(
        self,
        client: Redis,
        process: str,
        limits: Limits,
        *,
        host: ReaderHost,
        space: LogSpace,
        find_local: Callable[[str], StreamHandle | None],
        delete_local: Callable[[StreamHandle], None],
    ) -> None:
        self._store = LogStore(client)
        self._process = process
        self._limits = limits
        self._host = host
        self._space = space
        self._find_local = find_local
        self._delete_local = delete_local
        self.cache: LocalAnswers | None = None
        """The cached answers of this process, from which those of deleted streams are removed. Set before
        `start`."""
        self._presence = Presence(client, process)
        open_ttl_s = limits.max_stream_duration_s + OPEN_TTL_EXTRA_S
        self._writer = LogWriter(self._store, process, open_ttl_s=open_ttl_s)
        self._bus = Bus(client, process, self)
        self._outbox = Outbox(self._store)
        max_lookups = max(1, client.connection_pool.max_connections - RESERVED_CONNECTIONS)
        self._copies = copies.Copies(
            self._store, self._presence, process, self._new_log, max_lookups=max_lookups
        )
        self._copies.on_renewal = self._restore
        self._copies.on_deleted = self._writer.on_deleted = self._note_deleted
        ttl_s = open_ttl_s + limits.max_log_ttl_s
        self._request_ids = RequestIds(
            RequestClaims(client, self._presence, ttl_s),
            process,
            lookup=self._copies.lookups.turn,
            find_local=find_local,
            find=self.find,
        )
        self.claim = self._request_ids.claim
        """Claims the id of a request for all processes, see `StreamDirectory.claim`."""
        self._handles: dict[Copy, StreamHandle] = {}
        self._deleting: set[str] = set()  # ids of streams whose stored logs are being deleted
        self._task: asyncio.Task[None] | None = None

    @property
    def is_subscribed(self) -> bool:
        """Whether messages of other processes arrive."""
        return self._copies.is_subscribed

    @property
    def is_failing(self) -> bool:
        """Whether Redis does not serve this process."""
        return self._writer.is_failing or not self._copies.is_subscribed

    @property
    def due_count(self) -> int:
        """The number of this process's logs with entries that are not stored yet."""
        return self._writer.due_count

    @property
    def copy_count(self) -> int:
        """The number of other processes' logs that this process has copies of."""
        return self._copies.count

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Store, follow, send and receive, in a task of `tasks`, until `close` or `stop`."""
        self._task = tasks.create_task(self._run(), name="shared streams")

    def close(self) -> None:
        """Stop at once. Idempotent."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self, timeout_s: float) -> None:
        """Stop, store what is not stored yet, and give up the lease of this process."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait((self._task,))
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(timeout_s):
                if await self._writer.flush(timeout_s):
                    await self._presence.end()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for run, name in (
                    (self._writer.run, "stored logs"),
                    (self._bus.run, "messages of other processes"),
                    (self._copies.run, "copies of logs"),
                    (self._copies.run_presence, "lease of this process"),
                    (self._outbox.run, "messages to other processes"),
                    (self._request_ids.run, "claims of request ids"),
                ):
                    tasks.create_task(keep_running(run), name=name)
        finally:
            self._copies.close()

    # Streams of this process.

    def added(self, stream: StreamHandle) -> None:
        """Store the log of a stream from now on."""
        self._writer.add(stream)
        self._request_ids.added(stream)

    def removed(self, stream: StreamHandle) -> None:
        """Store the rest of a log that has ended, then stop storing it. Idempotent.

        What is stored expires.
        """
        self._writer.release(stream.id)
        self._request_ids.removed(stream)

    async def delete(self, stream: StreamHandle) -> None:
        """Delete what is stored of a stream that has ended. Raises StoreUnavailable."""
        copy = self._copies.get(stream.id)
        self._writer.remove(stream.id)
        self._deleting.add(stream.id)
        try:
            owner = None if copy is None else copy.owner
            await self._store.delete(stream.id, stream.tenant, owner)
        except BaseException:
            if self._find_local(stream.id) is stream:
                self._writer.add(stream)
            raise
        finally:
            self._deleting.discard(stream.id)
        self._drop_deleted(stream.id)

    # Streams of other processes.

    async def find(self, stream_id: str, tenant: str, after_sequence: int | None) -> StreamHandle:
        """Return the handle of another process's stream.

        `after_sequence` is the position of a reader, which must join before the next await. It is None if no
        reader will join. If the log does not have this entry yet, wait for it up to the length of a lease:
        the reader may have received it from the owner. Raises StreamNotFound, StoreUnavailable, Overloaded.
        """
        copy = await self._copies.open(stream_id, tenant, reads=after_sequence is not None)
        if copy is None:
            raise StreamNotFound
        if after_sequence is not None and copy.log.last_sequence < after_sequence:
            await copy.wait_for(after_sequence, lookups.READER_LEASE_S)
            failure = copy.log.failure
            is_short = copy.log.last_sequence < after_sequence
            if failure is not None and copy.is_abandoned and is_short:
                raise StreamFailed(stream_id, failure)
            if is_short and not copy.log.sealed and self._copies.may_lack(copy):
                raise StoreUnavailable(
                    "Redis: the entries up to this position may not be stored yet", store=SHARED_LOG
                )
        if after_sequence is None and not copy.log.sealed:
            await self._wait_for_report(copy)
        if self._copies.get(stream_id) is not copy:  # it was dropped meanwhile
            failure = copy.log.failure
            if failure is None or not copy.is_abandoned:  # it was deleted, or has expired
                raise StreamNotFound
            raise StreamFailed(stream_id, failure)
        handle = self._handles.get(copy)
        if handle is None:
            handle = self._handles[copy] = follow(copy, self._copies, self)
            copy.on_drop = lambda: self._handles.pop(copy, None)
            note_others(copy, handle)
        return handle

    async def _wait_for_report(self, copy: Copy) -> None:
        """Wait until the owner has reported the usage, at most REPORT_WAIT_S: it may be out of reach."""
        if copy.is_reported.is_set():
            return
        self._copies.readers_changed(copy)
        with suppress(TimeoutError):
            async with asyncio.timeout(REPORT_WAIT_S):
                await copy.is_reported.wait()

    def announce_drain(self, ends_at: float) -> None:
        """Tell the readers of other processes' streams that `end_readers` follows at `ends_at`.

        `ends_at` is a value of `time.monotonic`.
        """
        for handle in self._handles.values():
            handle.announce_drain(ends_at)

    def end_readers(self) -> None:
        """End the readers of other processes' streams with DRAINING. The streams continue."""
        self._copies.drop_all(Draining())

    def _restore(self) -> None:
        """Store again what Redis may have lost."""
        self._writer.check_all()
        self._request_ids.restore()

    def _new_log(self, tenant: str, part: StoredPart) -> CopyLog:
        if not self._space.may_open(tenant):
            raise Overloaded(
                "the logs of streams have reached their memory limit",
                limit=self._space.max_bytes,
                limit_name="max_total_log_bytes",
            )
        return CopyLog(self._limits.max_log_bytes, self._space, tenant, part)

    # ReaderHost, for streams of other processes.

    @property
    def drain_ends_at(self) -> float | None:
        return self._host.drain_ends_at

    def reader_joins(self, stream: StreamHandle) -> None:
        self._host.reader_joins(stream)
        # The handle counts the reader after this.
        asyncio.get_running_loop().call_soon(self._readers_changed, stream)

    def reader_left(self, stream: StreamHandle) -> None:
        self._host.reader_left(stream)
        self._readers_changed(stream)

    def _readers_changed(self, stream: StreamHandle) -> None:
        copy = self._copies.get(stream.id)
        if copy is not None and copy.log is stream.log:
            self._copies.readers_changed(copy)
        elif not stream.local_reader_count:
            stream.log.drop()

    # Receiver

    def subscribed(self) -> None:
        self._copies.subscribed()
        self._writer.check_all()  # a caller may have deleted streams meanwhile
        if self.cache is not None:  # messages about its answers may have been lost
            self.cache.remove_all()

    def unsubscribed(self) -> None:
        self._copies.unsubscribed()

    def got_batch(self, log: LogId, data: bytes) -> None:
        self._copies.got_batch(log, data)

    def got_message(self, message: Message) -> None:
        match message:
            case ReadersMessage():
                self._note_readers(message)
            case StatusMessage():
                self._note_status(message)
            case RestoreMessage():
                self._restore_log(message)
            case CancelMessage():
                stream = self._find_local(message.stream_id)
                if stream is not None:
                    stream.cancel()
            case DeletedMessage():
                self._note_deleted(message.stream_id)
            case AnswerReplacedMessage():
                if self.cache is not None:
                    self.cache.remove(message.stream_id)

    def _restore_log(self, message: RestoreMessage) -> None:
        self._writer.restore(message.stream_id)
        is_stored = self._writer.stores(message.stream_id)
        if message.process and not is_stored and message.stream_id not in self._deleting:
            self._outbox.put(message.process, StatusMessage(message.stream_id, False, NO_USAGE, 0))

    def _note_readers(self, message: ReadersMessage) -> None:
        stream = self._find_local(message.stream_id)
        is_stored = self._writer.stores(message.stream_id)
        if stream is None or not is_stored:
            # Otherwise another message follows: the end of the log, or the deletion.
            if not is_stored and message.stream_id not in self._deleting:
                status = StatusMessage(message.stream_id, False, NO_USAGE, 0)
                self._outbox.put(message.process, status)
            return
        left_s = message.left_s
        deadline = None if left_s is None else time.monotonic() + left_s
        stream.note_readers_of(
            message.process, message.count, deadline=deadline, for_s=lookups.READER_LEASE_S
        )
        self._writer.hurry(message.stream_id)
        self._outbox.put(
            message.process,
            StatusMessage(
                message.stream_id,
                True,
                stream.usage(),
                stream.readers_besides(message.process),
                stream.log.last_sequence + stream.log.sealed,
            ),
        )

    def _note_status(self, message: StatusMessage) -> None:
        copy = self._copies.got_status(message)
        handle = None if copy is None else self._handles.get(copy)
        if copy is not None and handle is not None:
            note_others(copy, handle)

    def _note_deleted(self, stream_id: str) -> None:
        if self.cache is not None:
            self.cache.remove(stream_id)
        self._drop_deleted(stream_id)
        self._writer.remove(stream_id)
        stream = self._find_local(stream_id)
        if stream is not None:
            stream.cancel()  # it is open only if this process was out of reach
            self._delete_at_end(stream)

    def _delete_at_end(self, stream: StreamHandle) -> None:
        def on_entry() -> None:
            if stream.log.sealed:
                asyncio.get_running_loop().call_soon(self._delete_local, stream)

        if stream.log.sealed:
            self._delete_local(stream)
        else:
            stream.log.subscribe(on_entry)

    def _drop_deleted(self, stream_id: str) -> None:
        """Drop the copy of a stream that was deleted."""
        copy = self._copies.get(stream_id)
        if copy is None:
            return
        if copy in self._handles:
            self._handles[copy].is_deleted = True
        self._copies.drop(copy, StreamNotFound())
        copy.log.drop()
