"""The cached answers that this process shares with others, through Redis."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import NamedTuple

from ..config import (
    FilterConfig,
    ModelConfig,
    ModerationConfig,
    ProviderConfig,
    RedisConfig,
    Settings,
)
from ..errors import StoreUnavailable
from ..request import CacheUse
from ..streamlog.entries import Answer, UnknownFormat
from ..streamlog.memory import entry_bytes
from ..streamlog.redis.answers import AnswerKey, AnswerStore, Unencodable
from ..streamlog.redis.connect import Redis
from ..telemetry import internal_fault
from .cache import ANSWER_BYTES, CachedAnswer, OtherAnswers

logger = logging.getLogger(__name__)

LOOKUP_S = 0.05
"""The longest time that a request waits for Redis. Then it is a miss."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""How long Redis is not asked after a failure. The pause doubles with each further one, so that a long outage
delays one request in LONGEST_PAUSE_S."""
LOGGED_FAILURES = 3
"""Lookups that fail one after the other until this is logged. A busy server may be too slow for LOOKUP_S."""
MAX_PENDING_BYTES = 16 * 2**20
"""Memory of answers that wait to be stored. The next one is not stored."""
MAX_PENDING_S = 10.0
"""The longest time that an answer waits to be stored. Less than TOMBSTONE_S of the store."""
MAX_MEMORY_USE = 0.5
"""Share of Redis's memory limit beyond which no answers are stored. The rest is for streams."""
MEMORY_TRUSTED_S = 5.0
"""How long the memory use that Redis reported is trusted."""


class _Pending(NamedTuple):
    """An answer that is to be stored."""

    key: AnswerKey
    answer: CachedAnswer


class _Outage:
    """Whether something fails. Pauses after each failure, and logs the outage once."""

    def __init__(self, what: str, logged_failures: int = 1) -> None:
        self._what = what
        self._logged_failures = logged_failures
        self._failure_count = 0
        self._failed_at = 0.0
        self._paused_until = 0.0

    @property
    def is_paused(self) -> bool:
        return self._failure_count > 0 and time.monotonic() < self._paused_until

    def pause(self) -> None:
        """Pause other attempts while one is running, if the last one failed."""
        doublings = min(self._failure_count - 1, 10)
        pause_s = min(FIRST_PAUSE_S * 2**doublings, LONGEST_PAUSE_S)
        self._paused_until = time.monotonic() + pause_s

    def failed(self, why: str, began: float) -> None:
        """`began` is when the attempt began. Of attempts at the same time, only the first failure counts."""
        if began < self._failed_at:
            return
        self._failed_at = time.monotonic()
        self._failure_count += 1
        self.pause()
        is_logged = self._failure_count == self._logged_failures
        log = logger.warning if is_logged else logger.debug
        log("cached answers are not %s: %s", self._what, why)

    def worked(self) -> None:
        if self._failure_count >= self._logged_failures:
            logger.info("cached answers are %s again", self._what)
        self._failure_count = 0


class SharedAnswers(OtherAnswers):
    """Stores the answers of this process, and finds those of all. Belongs to one event loop.

    Finding one takes LOOKUP_S at most, and never fails. Answers are stored in the background.
    """

    def __init__(
        self,
        store: AnswerStore,
        config: RedisConfig,
        providers: Mapping[str, ProviderConfig],
        models: Mapping[str, ModelConfig],
        filters: Mapping[str, FilterConfig],
        moderation: Mapping[str, ModerationConfig],
    ) -> None:
        self._store = store
        self._providers = providers
        self.configuration = self.configuration_of(models, filters, moderation)
        self._max_bytes = config.max_cached_answer_bytes
        self.lookup_s = min(LOOKUP_S, config.timeout_s)
        """How long a request waits for Redis."""
        self._pending = deque[_Pending]()
        self._pending_bytes = 0
        self._has_pending = asyncio.Event()
        self._finding = _Outage("found", LOGGED_FAILURES)
        self._storing = _Outage("stored")
        self._memory_use = 0.0
        self._memory_read_at = -MEMORY_TRUSTED_S

    def configuration_of(
        self,
        models: Mapping[str, ModelConfig],
        filters: Mapping[str, FilterConfig],
        moderation: Mapping[str, ModerationConfig],
    ) -> bytes:
        """See `OtherAnswers`."""
        parts: list[object] = [
            {name: repr(section) for name, section in sorted(sections.items())}
            for sections in (self._providers, models)
        ]
        if filters:  # in their order, which matters
            parts.append([(name, repr(section)) for name, section in filters.items()])
        if moderation:
            parts.append({"moderation": [(name, repr(each)) for name, each in moderation.items()]})
        return hashlib.sha256(json.dumps(parts).encode()).digest()

    @property
    def is_idle(self) -> bool:
        """Whether no answer waits to be stored."""
        return not self._pending_bytes

    async def find(self, tenant: str, use: CacheUse) -> CachedAnswer | None:
        """Return an answer that may be replayed for this use, or None, also if Redis does not answer."""
        outage = self._finding
        if outage.is_paused:
            return None
        outage.pause()
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.lookup_s):
                found = await self._store.find(self._key(tenant, use.key))
        except TimeoutError:
            outage.failed(f"Redis did not answer within {self.lookup_s * 1000:g} ms", began)
            return None
        except StoreUnavailable as error:
            outage.failed(error.detail, began)
            return None
        except UnknownFormat as error:  # of a later version
            logger.debug("a cached answer was ignored: %s", error)
            return None
        except Exception as error:  # noqa: BLE001  # the provider can answer
            internal_fault(error)
            return None
        outage.worked()
        if found is None or found.age_s > use.ttl_s:
            return None
        answer = found.answer
        return CachedAnswer(
            tuple(answer.entries),
            answer.finished,
            found.stream_id,
            time.monotonic() - found.age_s,
            answer.ttl_s,
            ANSWER_BYTES + sum(map(entry_bytes, (*answer.entries, answer.finished))),
        )

    def put(self, tenant: str, key: bytes, answer: CachedAnswer) -> None:
        """Store an answer soon, unless Redis is away or has no room for it."""
        if self._storing.is_paused:
            logger.debug("the answer of stream %s is not shared: Redis is away", answer.stream_id)
        elif self._pending_bytes + answer.byte_count > MAX_PENDING_BYTES:
            logger.debug("the answer of stream %s is not shared: too many wait", answer.stream_id)
        else:
            self._pending.append(_Pending(self._key(tenant, key), answer))
            self._pending_bytes += answer.byte_count
            self._has_pending.set()

    async def delete(self, tenant: str, stream_id: str) -> None:
        """Delete the answer of a stream for all processes. Idempotent. Raises StoreUnavailable."""
        await self._store.delete(tenant, stream_id)

    async def run(self) -> None:
        """Store answers until cancelled. Those that still wait then are not stored."""
        while True:
            self._has_pending.clear()
            while self._pending:
                pending = self._pending.popleft()
                try:
                    await self._put(pending)
                except StoreUnavailable as error:
                    self._storing.failed(error.detail, time.monotonic())
                except Unencodable as error:
                    logger.debug("the answer of stream %s has no stored form", error)
                except Exception as error:  # noqa: BLE001  # later answers are stored
                    internal_fault(error)
                finally:
                    self._pending_bytes -= pending.answer.byte_count
            await self._has_pending.wait()

    async def _put(self, pending: _Pending) -> None:
        """Raises StoreUnavailable, Unencodable."""
        key, answer = pending
        if self._storing.is_paused or time.monotonic() - answer.kept_at > MAX_PENDING_S:
            logger.debug("the answer of stream %s is not shared: Redis is away", answer.stream_id)
            return
        now = time.monotonic()
        if now - self._memory_read_at >= MEMORY_TRUSTED_S:
            self._memory_use = await self._store.memory_use()
            self._memory_read_at = now
        if self._memory_use > MAX_MEMORY_USE:
            self._storing.failed(
                f"Redis uses {self._memory_use:.0%} of its maxmemory, and more than "
                f"{MAX_MEMORY_USE:.0%} is for streams only",
                now,
            )
            return
        await self._store.put(
            key,
            answer.stream_id,
            Answer(list(answer.deltas), answer.finished, answer.ttl_s),
            age_s=time.monotonic() - answer.kept_at,
            max_bytes=self._max_bytes,
        )
        self._storing.worked()

    def _key(self, tenant: str, key: bytes) -> AnswerKey:
        return AnswerKey(tenant, self.configuration, key)


def share_answers(
    client: Redis,
    process: str,
    settings: Settings,
    providers: Mapping[str, ProviderConfig],
    models: Mapping[str, ModelConfig],
    *,
    tasks: asyncio.TaskGroup,
    stack: AsyncExitStack,
) -> SharedAnswers | None:
    """Share answers until the stack is left. Return None if the settings turn this off."""
    if not settings.redis.max_cached_answer_bytes or not settings.limits.max_cache_bytes:
        return None
    store = AnswerStore(client, process)
    shared = SharedAnswers(
        store, settings.redis, providers, models, settings.filters, settings.moderation
    )
    stack.callback(tasks.create_task(shared.run(), name="shared answers").cancel)
    return shared
