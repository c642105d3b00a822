"""The streams of this process: those that generate, and those that ended and can still be read."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Protocol

from ..config import Limits
from ..errors import Overloaded, RequestIdReused, StreamNotFound
from ..events import FinishReason, Started
from ..ledger.record import UsageRecord
from ..pricing.estimate import Estimate, rough_estimate
from ..providers.base import Route
from ..request import ChatRequest
from ..streamlog.base import StreamLog
from ..streamlog.memory import STREAM_BYTES, MemoryLog
from ..streamlog.space import LogSpace
from ..tenants.caller import DEFAULT_TENANT, Caller
from ..tenants.limits import Lease
from ..tenants.spend import SpendHold
from .cache import ResponseCache
from .producer import Producer
from .records import record_of
from .stream import Stream

STREAM_ID_BYTES = 16
"""128 random bits: an id cannot be guessed. In hex, so that none looks like an option of a command."""


class Books(Protocol):
    """Who keeps a record of every stream. Each step is synchronous, and never waits."""

    instance_id: str

    def begin(self, record: UsageRecord) -> None:
        """A stream is accepted; no provider is asked yet."""
        ...

    def close(self, record: UsageRecord) -> None:
        """It has ended."""
        ...


class _EndedStreams:
    """The streams of one tenant that have ended and still take memory."""

    __slots__ = ("byte_count", "timers")

    def __init__(self) -> None:
        self.timers: dict[Stream, asyncio.TimerHandle] = {}
        """Streams in the order of their ends, each with the timer after which it cannot be found any more.
        Readers that are attached by then may continue."""
        self.byte_count = 0

    def add(self, stream: Stream, timer: asyncio.TimerHandle) -> None:
        self.timers[stream] = timer
        self.byte_count += STREAM_BYTES + stream.log.byte_count

    def remove(self, stream: Stream) -> None:
        """Remove a stream, if it is here. Call this before its log is dropped."""
        timer = self.timers.pop(stream, None)
        if timer is not None:
            timer.cancel()
            self.byte_count -= STREAM_BYTES + stream.log.byte_count


class StreamRegistry:
    """Admits streams and readers, finds streams by their ids, and forgets each in time.

    At most `limits.max_streams` generate and `limits.max_readers` read at once. A stream that ended
    stays until its `log_ttl` has passed, or until memory is short (`limits.max_total_log_bytes`): then
    the tenant whose ended streams take the most memory loses the one that ended first. Producers are tasks
    of `tasks`, whose owner outlives every RPC.
    """

    def __init__(
        self, limits: Limits, tasks: asyncio.TaskGroup, books: Books | None = None
    ) -> None:
        """Without books no records are kept."""
        self._limits = limits
        self._books = books
        self._tasks = tasks
        self._space = LogSpace(limits.max_total_log_bytes, self._make_room)
        self._cache = ResponseCache(
            limits.max_cache_bytes,
            min(
                limits.max_cached_answer_bytes, limits.max_log_bytes
            ),  # it is replayed through a log
        )
        self._found: dict[tuple[str, str], Stream] = {}  # by tenant and stream id
        self._requested: dict[tuple[str, str], Stream] = {}  # by tenant and request id
        self._live: set[Stream] = set()
        # By tenant.
        self._ended: dict[str, _EndedStreams] = {}
        self._reader_count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def live_count(self) -> int:
        """Streams that generate."""
        return len(self._live)

    @property
    def ended_count(self) -> int:
        """Streams that ended and are still kept."""
        return sum(len(ended.timers) for ended in self._ended.values())

    @property
    def log_bytes(self) -> int:
        """What all logs take."""
        return self._space.used_bytes

    def begun_by(self, request: ChatRequest, tenant: str = DEFAULT_TENANT) -> Stream | None:
        """The stream that the request's id began, if it did. Raises RequestIdReused."""
        known = self._requested.get((tenant, request.request_id))
        if known is not None and known.body_hash != request.body_hash:
            raise RequestIdReused(request.request_id)
        return known

    def open(
        self,
        request: ChatRequest,
        route: Route,
        *,
        caller: Caller = Caller(),  # noqa: B008  # frozen
        estimate: Estimate | None = None,
        lease: Lease | None = None,
        spend: SpendHold | None = None,
        deadline_s: float | None = None,
    ) -> Stream:
        """The stream that answers a request; nothing is asked of a provider yet.

        It is the one that the request's id began, or a replay from the cache, or a new one. Join it in
        the same step, and give it to `produce`. `deadline_s` is the time that the caller has. `lease`
        and `spend` are what the caller has taken for it: a new stream settles them at its end, otherwise
        they are given back.

        Raises Overloaded, RequestIdReused.
        """
        stream = None
        try:
            known = self.begun_by(request, caller.tenant)
            if known is not None:
                return known
            stream = self._new(
                request,
                route,
                caller,
                estimate or rough_estimate(request),
                lease,
                spend,
                deadline_s,
            )
            return stream
        finally:
            if stream is None:
                if lease is not None:
                    lease.give_back()
                if spend is not None:
                    spend.settle(0)

    def _new(
        self,
        request: ChatRequest,
        route: Route,
        caller: Caller,
        estimate: Estimate,
        lease: Lease | None,
        spend: SpendHold | None,
        deadline_s: float | None,
    ) -> Stream:
        tenant = caller.tenant
        self._check_readers()
        self._make_room()
        if self._space.full:
            raise Overloaded("its streams' logs take all the room", limit=self._space.max_bytes)
        cached = self._cache.get(tenant, request.cache) if request.cache else None
        if cached is None and len(self._live) >= self._limits.max_streams:
            raise Overloaded("too many streams are open", limit=self._limits.max_streams)
        stream = Stream(
            secrets.token_hex(STREAM_ID_BYTES),
            caller,
            MemoryLog(self._limits.max_log_bytes, self._space),
            self,
            request,
            route,
            estimate,
            time_limit_s=self._time_limit_s(request, deadline_s),
            lease=lease,
            spend=spend,
        )
        self._found[tenant, stream.id] = stream
        if request.request_id:
            self._requested[tenant, request.request_id] = stream
        self._live.add(stream)
        self._idle.clear()
        stream.log.append(
            Started(
                stream_id=stream.id,
                model=route.model,
                provider=route.provider.name,
                created_time=stream.created_time,
                request_id=request.request_id,
                estimated_input_tokens=0 if cached else estimate.input_tokens,
                estimated_cost_microusd=0 if cached else estimate.input_cost_microusd,
                from_cache=cached is not None,
            )
        )
        if self._books is not None:
            self._books.begin(record_of(stream, self._books.instance_id))
        if cached is not None:
            stream.from_cache = True
            stream.cache = None  # a replay makes no answer younger
            cached.replay(stream)
        return stream

    def produce(self, stream: Stream, route: Route, request: ChatRequest) -> None:
        """Begin to generate, unless that has begun: from here on the stream is sealed in the end."""
        if stream.begun:
            return
        producer = Producer(stream, route, request, self._limits)
        task = self._tasks.create_task(producer.run(), name=f"producer {stream.id}")
        stream.produced_by(task, producer)

    def open_records(self) -> Iterator[UsageRecord]:
        """The streams that generate, as they stand. Others may have their turn between two records."""
        if self._books is not None:
            for stream in list(self._live):
                if not stream.log.sealed:
                    yield record_of(stream, self._books.instance_id)

    def find(self, stream_id: str, tenant: str = DEFAULT_TENANT) -> Stream:
        """A stream by its id. Raises StreamNotFound."""
        stream = self._found.get((tenant, stream_id))
        if stream is None:
            raise StreamNotFound
        return stream

    def delete(self, stream: Stream) -> None:
        """Forget a stream that has ended, now; who still reads it gets StreamNotFound."""
        stream.deleted = True
        self._cache.forget(stream)
        self._forget(stream)

    async def wait_until_idle(self) -> None:
        """Return once no stream generates and none is read. The caller bounds it."""
        await self._idle.wait()

    def cancel_all_of(self, key_prefix: str) -> None:
        """End every stream that a key began, as it was revoked."""
        for stream in list(self._live):
            if stream.key_prefix == key_prefix:
                stream.cancel()

    def stop_all(self) -> None:
        """End every stream that generates: its readers get SERVER_STOPPED after what its log holds."""
        for stream in list(self._live):
            stream.stop()

    # What a stream tells its keeper.

    def reader_joins(self) -> None:
        self._check_readers()
        self._reader_count += 1
        self._idle.clear()

    def reader_left(self, stream: Stream) -> None:
        self._reader_count -= 1
        kept = self._ended.get(stream.tenant)
        is_kept = kept is not None and stream in kept.timers
        expired = is_kept and (stream.tenant, stream.id) not in self._found
        if expired and not stream.reader_count:
            self._forget(stream)
        self._check_idle()

    def ended(self, stream: Stream) -> None:
        self._live.discard(stream)
        if self._books is not None:
            self._books.close(record_of(stream, self._books.instance_id))
        if _ended_without_a_token(stream.log):
            self._free_request_id(stream)
        if stream.cache is not None:
            self._cache.keep(stream)
        timer = asyncio.get_running_loop().call_later(
            stream.retention.log_ttl_s, self._expire, stream
        )
        self._ended.setdefault(stream.tenant, _EndedStreams()).add(stream, timer)
        self._check_idle()

    def _expire(self, stream: Stream) -> None:
        self._lose(stream)
        if not stream.reader_count:
            self._forget(stream)

    def _make_room(self) -> None:
        while self._space.full and self._ended:
            largest = max(self._ended.values(), key=lambda ended: ended.byte_count)
            self._forget(next(iter(largest.timers)))

    def _lose(self, stream: Stream) -> None:
        """Let nobody find it any more."""
        self._found.pop((stream.tenant, stream.id), None)
        self._free_request_id(stream)

    def _free_request_id(self, stream: Stream) -> None:
        if self._requested.get((stream.tenant, stream.request_id)) is stream:
            del self._requested[stream.tenant, stream.request_id]

    def _forget(self, stream: Stream) -> None:
        self._lose(stream)
        ended = self._ended.get(stream.tenant)
        if ended is not None:
            ended.remove(stream)
            if not ended.timers:
                del self._ended[stream.tenant]
        stream.log.drop()

    def _time_limit_s(self, request: ChatRequest, deadline_s: float | None) -> float:
        limit_s = self._limits.max_stream_duration_s
        margin_s = request.retention.soft_deadline_margin_s
        if margin_s is None or deadline_s is None:
            return limit_s
        return min(limit_s, deadline_s - margin_s)

    def _check_readers(self) -> None:
        if self._reader_count >= self._limits.max_readers:
            raise Overloaded("too many readers", limit=self._limits.max_readers)

    def _check_idle(self) -> None:
        if not self._live and not self._reader_count:
            self._idle.set()


def _ended_without_a_token(log: StreamLog) -> bool:
    """It failed or was cancelled before its first token: the same request may begin anew."""
    if log.failure is not None:
        return log.last_sequence <= 1
    cancelled = log.finished is not None and log.finished.reason == FinishReason.CANCELLED
    return cancelled and log.last_sequence <= 2  # Started, Finished
