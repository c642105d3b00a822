"""Finished answers, kept to be replayed to a caller who wants that."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from ..events import Event, Finished, FinishReason, Timings
from ..request import CacheUse
from ..streamlog.memory import entry_bytes
from .merge import merge
from .stream import NOTHING, Stream

KEPT_REASONS = frozenset({FinishReason.STOP, FinishReason.STOP_SEQUENCE, FinishReason.TOOL_CALLS})
"""Ends that the same request may be expected to reach again."""

ANSWER_BYTES = 1024
"""What an answer costs besides its entries."""


class CachedAnswer(NamedTuple):
    """An answer's entries between Started and Finished, merged, and its end."""

    deltas: tuple[Event, ...]
    finished: Finished
    stream_id: str
    """Of the stream that it was kept of."""
    kept: float
    """When, of the monotonic clock."""
    ttl_s: float
    byte_count: int
    """What it takes in memory."""

    def replay(self, stream: Stream) -> None:
        """Complete a stream that has begun. It used nothing: no provider was asked."""
        for delta in self.deltas:
            stream.log.append(delta)
        duration_s = time.monotonic() - stream.opened
        stream.finish(
            msgspec.structs.replace(
                self.finished,
                usage=NOTHING,
                timings=Timings(duration_s=duration_s, ttft_s=duration_s),
            )
        )


class _TenantAnswers:
    """The answers of one tenant, the least recently used one first."""

    __slots__ = ("by_key", "byte_count")

    def __init__(self) -> None:
        self.by_key = OrderedDict[bytes, CachedAnswer]()
        self.byte_count = 0


class ResponseCache:
    """At most `max_bytes` of answers, of at most `max_answer_bytes` each, as their logs count them.

    Past the bound the tenant whose answers take the most memory loses its least recently used answer, so
    other tenants cannot displace the answers of a tenant that has few. Tenants never share answers.
    """

    def __init__(self, max_bytes: int, max_answer_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_answer_bytes = max_answer_bytes
        self._tenants: dict[str, _TenantAnswers] = {}  # those that have answers
        self._bytes = 0

    def get(self, tenant: str, use: CacheUse) -> CachedAnswer | None:
        """An answer that may be replayed for this use."""
        answer = self._find(tenant, use.key)
        if answer is None or not use.read:
            return None
        age_s = time.monotonic() - answer.kept
        if age_s > answer.ttl_s:
            self._remove(tenant, use.key)
            return None
        if age_s > use.ttl_s:
            return None
        self._tenants[tenant].by_key.move_to_end(use.key)
        return answer

    def keep(self, stream: Stream) -> None:
        """Keep the answer of a stream that has ended, if it ended well and is whole."""
        log, use = stream.log, stream.cache
        if (
            use is None
            or log.finished is None
            or log.finished.reason not in KEPT_REASONS
            or log.earliest_sequence > 1
            or log.byte_count > self._max_answer_bytes
        ):
            return
        replayed: list[Event] = []
        sequence = 0
        while entries := log.read(sequence):
            joined = merge(entries, sequence)
            replayed += (event for _, event in joined)
            sequence = joined[-1][0]
        log_bytes = sum(map(entry_bytes, replayed))
        if log_bytes > self._max_answer_bytes:  # a joined text is as wide as its widest character
            return
        byte_count = ANSWER_BYTES + log_bytes
        self._remove(stream.tenant, use.key)
        answers = self._tenants.setdefault(stream.tenant, _TenantAnswers())
        answers.by_key[use.key] = CachedAnswer(
            tuple(replayed[1:-1]), log.finished, stream.id, time.monotonic(), use.ttl_s, byte_count
        )
        answers.byte_count += byte_count
        self._bytes += byte_count
        while self._bytes > self._max_bytes:
            largest = max(self._tenants, key=lambda tenant: self._tenants[tenant].byte_count)
            self._remove(largest, next(iter(self._tenants[largest].by_key)))

    def forget(self, stream: Stream) -> None:
        """Keep nothing of a stream."""
        if stream.cache is not None:
            answer = self._find(stream.tenant, stream.cache.key)
            if answer is not None and answer.stream_id == stream.id:
                self._remove(stream.tenant, stream.cache.key)

    def _find(self, tenant: str, key: bytes) -> CachedAnswer | None:
        answers = self._tenants.get(tenant)
        return None if answers is None else answers.by_key.get(key)

    def _remove(self, tenant: str, key: bytes) -> None:
        answer = self._find(tenant, key)
        if answer is not None:
            answers = self._tenants[tenant]
            del answers.by_key[key]
            answers.byte_count -= answer.byte_count
            self._bytes -= answer.byte_count
            if not answers.by_key:
                del self._tenants[tenant]
