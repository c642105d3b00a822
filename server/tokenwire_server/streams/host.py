"""Opens, runs and ends the streams of this process, within its limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from ..errors import Draining, Overloaded
from ..routing.owner import Routing
from ..shares import SharedBound
from ..streamlog.memory import MemoryLog
from ..streamlog.space import LogSpace
from .admitted import AdmittedChat
from .cache import CachedAnswer
from .directory import StreamDirectory
from .ended import EndedStreams
from .generation import Generation, StreamObserver
from .handle import StreamHandle, new_stream_id


class StreamHost(StreamObserver):
    """The owner of this process's streams. Belongs to one event loop.

    At most `max_streams` of the limits generate at once, and at most `max_readers` read. While `has_tenants`
    returns True, tenants share these bounds and the memory of the logs, see `SharedBound`. Producers are
    tasks of `tasks`, a task group that outlives every RPC. `observers` follow all streams.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        directory: StreamDirectory,
        routing: Routing,
        observers: Iterable[StreamObserver] = (),
        *,
        has_tenants: Callable[[], bool] = lambda: False,
    ) -> None:
        self._limits = limits = routing.limits
        self._tasks = tasks
        self._directory = directory
        self._routing = routing
        self._observers = (*observers, self)
        self._ended = EndedStreams(directory, limits.max_total_log_bytes, has_tenants)
        self._live: dict[str, Generation] = {}  # by stream id
        self._generating = SharedBound(limits.max_streams, has_tenants)
        self._reading = SharedBound(limits.max_readers, has_tenants)
        self._drain_ends_at: float | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def live_count(self) -> int:
        """The number of streams that generate."""
        return len(self._live)

    @property
    def reader_count(self) -> int:
        """The number of readers of all streams."""
        return self._reading.used

    @property
    def ended_count(self) -> int:
        """The number of streams that have ended and are still kept."""
        return len(self._ended)

    @property
    def log_bytes(self) -> int:
        """The memory of all logs."""
        return self._ended.space.used_bytes

    @property
    def log_space(self) -> LogSpace:
        """What counts the memory of all logs."""
        return self._ended.space

    @property
    def drain_ends_at(self) -> float | None:
        """When streams that still generate are ended, a value of `time.monotonic`. None: no drain."""
        return self._drain_ends_at

    def open(
        self, chat: AdmittedChat, cached: CachedAnswer | None = None, *, stream_id: str = ""
    ) -> StreamHandle:
        """Open a stream for an admitted chat. No provider is contacted until `start`.

        `stream_id` is its id, see `StreamDirectory.claim`; by default it gets a new one. Join the stream
        before the next await. With `cached`, the stream replays that answer and has ended when this returns.
        The reservation is settled when the stream ends. Raises Overloaded, and Draining after `drain`; the
        caller must then release the reservation.
        """
        if self._drain_ends_at is not None:
            raise Draining
        tenant = chat.caller.tenant
        self._check_readers(tenant)
        self._ended.make_room_for(tenant)
        space = self._ended.space
        if not space.may_open(tenant):
            what = "the logs of all streams have reached their memory limit"
            if not space.full:
                what = "the logs of this tenant's streams take its share of the memory"
            raise Overloaded(what, limit=space.max_bytes, limit_name="max_total_log_bytes")
        if cached is None:
            self.check_streams(tenant)
        request = chat.request
        stream = StreamHandle(
            stream_id or new_stream_id(),
            tenant,
            MemoryLog(self._limits.max_log_bytes, space, tenant),
            self,
            created_time=time.time(),
            request_id=request.request_id,
            retention=request.retention,
            body_hash=request.body_hash,
        )
        generation = Generation(stream, chat, self._routing, self._observers)
        self._directory.add(stream)
        self._live[stream.id] = generation
        self._generating.take(tenant)
        self._idle.clear()
        generation.open(from_cache=cached is not None)
        if cached is not None:
            generation.replay(cached.deltas, cached.finished)
        return stream

    def check_streams(self, tenant: str) -> None:
        """Check that one more stream of a tenant may generate. Raises Overloaded."""
        generating = self._generating
        if not generating.may_take(tenant):
            kind = "streams" if generating.is_full else "streams of this tenant"
            raise Overloaded(
                f"too many {kind} are open", limit=generating.bound, limit_name="max_streams"
            )

    def start(self, stream: StreamHandle) -> None:
        """Start to generate. Idempotent. From here on, the stream's log will be sealed."""
        generation = self._live.get(stream.id)
        if generation is not None:
            generation.start(self._tasks)

    def delete(self, stream: StreamHandle) -> None:
        """Drop an ended stream now. Its readers get StreamNotFound."""
        stream.is_deleted = True
        self._ended.drop(stream)

    def keep_readable(self, stream: StreamHandle) -> None:
        """Keep a stream that has ended, and that has a reader, for at least the default `log_ttl_s`."""
        self._ended.extend(stream, min(self._limits.log_ttl_s, self._limits.max_log_ttl_s))

    async def wait_until_idle(self) -> None:
        """Return when no stream generates and none is read. There is no limit on the time."""
        await self._idle.wait()

    def cancel_all_of(self, key_prefix: str) -> None:
        """End every stream that was opened with a key: the key was revoked."""
        for generation in list(self._live.values()):
            if generation.caller.key_prefix == key_prefix:
                generation.cancel()

    def drain(self, ends_at: float) -> None:
        """Open no further streams, and tell all readers that `stop_all` follows at `ends_at`.

        `ends_at` is a value of `time.monotonic`. Open streams continue, and can still be joined. If they are
        shared with other processes, they continue also without readers, which may resume them there.
        """
        self._drain_ends_at = ends_at
        shared = self._directory.shared
        for generation in self._live.values():
            if shared is not None:
                generation.stream.ends_unread = False
            generation.stream.announce_drain(ends_at)
        if shared is not None:
            shared.announce_drain(ends_at)

    def stop_all(self) -> None:
        """End every stream that generates. Its readers get SERVER_STOPPED after the events in its log.

        Readers of other processes' streams get DRAINING: these streams continue.
        """
        for generation in list(self._live.values()):
            generation.stop()
        if self._directory.shared is not None:
            self._directory.shared.end_readers()

    # ReaderHost

    def reader_joins(self, stream: StreamHandle) -> None:
        self._check_readers(stream.tenant)
        self._reading.take(stream.tenant)
        self._idle.clear()

    def reader_left(self, stream: StreamHandle) -> None:
        self._reading.give(stream.tenant)
        self._ended.reader_left(stream)
        self._check_idle()

    # StreamObserver

    def ended(self, generation: Generation) -> None:
        stream = generation.stream
        if self._live.pop(stream.id, None) is not None:
            self._generating.give(stream.tenant)
        if stream.frees_request_id:
            self._directory.release_request_id(stream)
        self._ended.add(stream)
        self._check_idle()

    def _check_readers(self, tenant: str) -> None:
        reading = self._reading
        if not reading.may_take(tenant):
            kind = "readers" if reading.is_full else "readers of this tenant's streams"
            raise Overloaded(f"too many {kind}", limit=reading.bound, limit_name="max_readers")

    def _check_idle(self) -> None:
        if not self._live and not self._reading.used:
            self._idle.set()
