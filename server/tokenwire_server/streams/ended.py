"""The streams that have ended and can still be read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from ..streamlog.memory import STREAM_BYTES
from ..streamlog.space import LogSpace
from .directory import StreamDirectory
from .handle import StreamHandle


class EndedStreams:
    """Keeps ended streams until their `log_ttl_s` has passed or memory is short.

    If the logs of all streams take more than `max_log_bytes`, the tenant whose ended streams take the most
    memory loses the one that ended first. Tenants whose streams take little, see `LogSpace`, lose nothing.
    A stream whose time has passed cannot be found any more; readers that are attached by then may continue.
    """

    def __init__(
        self, directory: StreamDirectory, max_log_bytes: int, has_tenants: Callable[[], bool]
    ) -> None:
        self._directory = directory
        self._tenants: dict[str, _TenantStreams] = {}
        self.space = LogSpace(max_log_bytes, self.make_room, has_tenants)
        """The memory of the logs of all streams, open and ended."""

    def __len__(self) -> int:
        return sum(len(ended.timers) for ended in self._tenants.values())

    def add(self, stream: StreamHandle) -> None:
        """Keep a stream that has just ended."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(stream.retention.log_ttl_s, self._expire, stream)
        self._tenants.setdefault(stream.tenant, _TenantStreams()).add(stream, timer)

    def extend(self, stream: StreamHandle, for_s: float) -> None:
        """Keep a stream for at least `for_s` from now, even if its retention has expired.

        The stream must have a reader, or it may be gone. No effect on a stream that was dropped.
        """
        ended = self._tenants.get(stream.tenant)
        if ended is None or stream not in ended.timers or stream.end_time is None:
            return
        log_ttl_s = time.time() - stream.end_time + for_s
        if log_ttl_s > stream.retention.log_ttl_s:
            stream.retention = msgspec.structs.replace(stream.retention, log_ttl_s=log_ttl_s)
            ended.timers[stream].cancel()
            loop = asyncio.get_running_loop()
            ended.timers[stream] = loop.call_later(for_s, self._expire, stream)
            self._directory.add(stream)

    def drop(self, stream: StreamHandle) -> None:
        """Drop a stream and its content. Idempotent."""
        self._directory.remove(stream)
        ended = self._tenants.get(stream.tenant)
        if ended is not None:
            ended.remove(stream)
            if not ended.timers:
                del self._tenants[stream.tenant]
        stream.log.drop()

    def reader_left(self, stream: StreamHandle) -> None:
        """Drop a stream if its time has passed and this was its last reader."""
        ended = self._tenants.get(stream.tenant)
        is_kept = ended is not None and stream in ended.timers
        if is_kept and not stream.reader_count and not self._directory.contains(stream):
            self.drop(stream)

    def make_room(self) -> None:
        """Drop ended streams while the logs take too much memory."""
        while self.space.full:
            large = [each for each in self._tenants if not self.space.takes_little(each)]
            if not large:
                return
            largest = max(large, key=lambda tenant: self._tenants[tenant].byte_count)
            self.drop(next(iter(self._tenants[largest].timers)))

    def make_room_for(self, tenant: str) -> None:
        """Drop ended streams so that a tenant may open another one, if that is possible."""
        self.make_room()
        while tenant in self._tenants and not self.space.may_open(tenant):
            self.drop(next(iter(self._tenants[tenant].timers)))

    def _expire(self, stream: StreamHandle) -> None:
        self._directory.remove(stream)
        if not stream.reader_count:
            self.drop(stream)


class _TenantStreams:
    """The ended streams of one tenant, with their memory."""

    __slots__ = ("byte_count", "timers")

    def __init__(self) -> None:
        self.timers: dict[StreamHandle, asyncio.TimerHandle] = {}
        """Streams in the order of their ends, each with the timer after which it cannot be found."""
        self.byte_count = 0

    def add(self, stream: StreamHandle, timer: asyncio.TimerHandle) -> None:
        self.timers[stream] = timer
        self.byte_count += STREAM_BYTES + stream.log.byte_count

    def remove(self, stream: StreamHandle) -> None:
        """Remove a stream, if it is here. Call this before its log is dropped."""
        timer = self.timers.pop(stream, None)
        if timer is not None:
            timer.cancel()
            self.byte_count -= STREAM_BYTES + stream.log.byte_count
