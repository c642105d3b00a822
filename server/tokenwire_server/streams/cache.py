"""Finished answers, kept to be replayed to callers that ask for it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple, Protocol, cast

from ..config import FilterConfig, Limits, ModelConfig, ModerationConfig
from ..events import (
    AnswerEntry,
    Event,
    Finished,
    FinishReason,
    JsonResult,
    Notice,
    NoticeKind,
)
from ..request import CacheUse
from ..streamlog.memory import entry_bytes
from .generation import Generation, StreamObserver
from .merge import merge

KEPT_REASONS = frozenset({FinishReason.STOP, FinishReason.STOP_SEQUENCE, FinishReason.TOOL_CALLS})
"""Only answers that finished for one of these reasons are cached."""

ANSWER_BYTES = 1024
"""Memory of an answer besides its entries."""


class CachedAnswer(NamedTuple):
    """An answer: its merged entries without Started and Finished, and its end."""

    deltas: tuple[AnswerEntry, ...]
    finished: Finished
    stream_id: str
    """The stream whose answer this is."""
    kept_at: float
    """When it was kept, a value of `time.monotonic`."""
    ttl_s: float
    byte_count: int
    """The memory that it takes."""


class OtherAnswers(Protocol):
    """The answers of all processes."""

    configuration: bytes
    """The result of `configuration_of` that is in use. Only answers with the same one are found."""

    def configuration_of(
        self,
        models: Mapping[str, ModelConfig],
        filters: Mapping[str, FilterConfig],
        moderation: Mapping[str, ModerationConfig],
    ) -> bytes:
        """Return a hash of these and the providers: 32 bytes. Takes 25 ms for 1,000 models."""
        ...

    async def find(self, tenant: str, use: CacheUse) -> CachedAnswer | None:
        """Return an answer that may be replayed for this use, or None, also if it cannot be found soon."""
        ...

    def put(self, tenant: str, key: bytes, answer: CachedAnswer) -> None:
        """Store an answer soon, if that is possible."""
        ...

    async def delete(self, tenant: str, stream_id: str) -> None:
        """Delete the answer of a stream. Idempotent. Raises StoreUnavailable."""
        ...


class _TenantAnswers:
    """The answers of one tenant, the least recently used one first."""

    __slots__ = ("by_key", "byte_count")

    def __init__(self) -> None:
        self.by_key = OrderedDict[bytes, CachedAnswer]()
        self.byte_count = 0


class ResponseCache(StreamObserver):
    """Keeps at most `max_bytes` of answers, of at most `max_answer_bytes` each, as their logs count them.

    Past the bound the tenant whose answers take the most memory loses its least recently used answer, so
    other tenants cannot displace the answers of a tenant that has few. Tenants never share answers.

    With `shared`, the answers of other processes are found too. They are not kept here, so that their
    deletion and replacement take effect here without a message to all processes.
    """

    def __init__(self, max_bytes: int, max_answer_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_answer_bytes = max_answer_bytes
        self._tenants: dict[str, _TenantAnswers] = {}  # tenants that have answers
        self._keys: dict[str, tuple[str, bytes]] = {}  # tenant and key, by the id of the stream
        self._bytes = 0
        self._cleared_time = 0.0
        self.shared: OtherAnswers | None = None
        """What shares the answers of this process with others. Set before the first stream is opened."""
        self.clear_count = 0
        """How often `clear` was called. An answer to an older plan must not be cached."""

    @classmethod
    def within(cls, limits: Limits) -> ResponseCache:
        """Return a cache with the limits of the settings. An answer is replayed through a log."""
        return cls(
            limits.max_cache_bytes, min(limits.max_cached_answer_bytes, limits.max_log_bytes)
        )

    async def find(self, tenant: str, use: CacheUse) -> CachedAnswer | None:
        """Return an answer that may be replayed for this use, or None.

        Waits only for an answer that this process does not have, and a fraction of a second at most.
        """
        answer = self._get(tenant, use)
        if answer is None and use.read and self.shared is not None:
            answer = await self.shared.find(tenant, use)
            if answer is not None and answer.byte_count - ANSWER_BYTES > self._max_answer_bytes:
                return None  # the log of a replay could not contain it
        return answer

    def _get(self, tenant: str, use: CacheUse) -> CachedAnswer | None:
        answer = self._find(tenant, use.key)
        if answer is None or not use.read:
            return None
        age_s = time.monotonic() - answer.kept_at
        if age_s > answer.ttl_s:
            self._remove(tenant, use.key)
            return None
        if age_s > use.ttl_s:
            return None
        self._tenants[tenant].by_key.move_to_end(use.key)
        return answer

    def ended(self, generation: Generation) -> None:
        """Cache the answer if it is complete and finished for one of KEPT_REASONS."""
        stream, use = generation.stream, generation.cache_use
        log = stream.log
        if (
            use is None
            or generation.from_cache  # a replay does not extend the lifetime of an answer
            or generation.has_unchecked  # the next answer may be checked
            or generation.is_fallback  # the next request must get the model that it names
            or stream.created_time <= self._cleared_time
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
            replayed += (event for _, event in joined if not _is_retrying(event))
            sequence = joined[-1][0]
        if any(isinstance(event, JsonResult) and event.is_unchecked for event in replayed[-2:]):
            return  # the next answer may be checked
        log_bytes = sum(map(entry_bytes, replayed))
        # One wide character makes each character of a merged text take more memory.
        if log_bytes > self._max_answer_bytes:
            return
        byte_count = ANSWER_BYTES + log_bytes
        self._remove(stream.tenant, use.key)
        answers = self._tenants.setdefault(stream.tenant, _TenantAnswers())
        answers.by_key[use.key] = answer = CachedAnswer(
            cast("tuple[AnswerEntry, ...]", tuple(replayed[1:-1])),  # all but Started and Finished
            log.finished,
            stream.id,
            time.monotonic(),
            use.ttl_s,
            byte_count,
        )
        self._keys[stream.id] = stream.tenant, use.key
        answers.byte_count += byte_count
        self._bytes += byte_count
        while self._bytes > self._max_bytes:
            largest = max(self._tenants, key=lambda tenant: self._tenants[tenant].byte_count)
            self._remove(largest, next(iter(self._tenants[largest].by_key)))
        if self.shared is not None:
            self.shared.put(stream.tenant, use.key, answer)

    async def delete(self, tenant: str, stream_id: str) -> None:
        """Delete the answer of a stream, here and for other processes. Idempotent.

        Raises StoreUnavailable.
        """
        self.remove(stream_id)
        if self.shared is not None:
            await self.shared.delete(tenant, stream_id)

    def remove(self, stream_id: str) -> None:
        """Remove the answer of a stream from the memory of this process. Idempotent."""
        found = self._keys.get(stream_id)
        if found is not None:
            self._remove(*found)

    def remove_all(self) -> None:
        """Remove all answers from the memory of this process."""
        self._tenants.clear()
        self._keys.clear()
        self._bytes = 0

    def clear(self) -> None:
        """Remove all answers, and cache none of an open stream: models, filters or moderations may have
        changed.
        """
        self.remove_all()
        self._cleared_time = time.time()
        self.clear_count += 1

    def _find(self, tenant: str, key: bytes) -> CachedAnswer | None:
        answers = self._tenants.get(tenant)
        return None if answers is None else answers.by_key.get(key)

    def _remove(self, tenant: str, key: bytes) -> None:
        answer = self._find(tenant, key)
        if answer is not None:
            answers = self._tenants[tenant]
            del answers.by_key[key]
            self._keys.pop(answer.stream_id, None)
            answers.byte_count -= answer.byte_count
            self._bytes -= answer.byte_count
            if not answers.by_key:
                del self._tenants[tenant]


def _is_retrying(event: Event) -> bool:
    """Return whether an entry reports a retry, which a replay does not have."""
    return isinstance(event, Notice) and event.kind == NoticeKind.RETRYING
