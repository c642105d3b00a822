"""Request ids. Each belongs to one stream across all processes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice

from ..errors import RequestIdReused, StoreUnavailable, StreamNotFound
from ..streamlog.redis.claims import MAX_AT_ONCE, Claim, Release, RequestClaims
from .handle import StreamHandle, new_stream_id

logger = logging.getLogger(__name__)

CLAIM_WAIT_S = 10.0
"""How long a request waits for another process that opens the stream of the same request id. After that, the
id is free: the stream will not be opened."""
CLAIM_EVERY_S = 0.05
"""Pause before it looks again."""
RETRY_S = 1.0
"""Pause before the claims in Redis are updated again after a failure."""
MAX_RELEASES = 10_000
"""Maximum number of claims that wait to be given up. The next one stays in Redis until it expires.
A request with its id waits for CLAIM_WAIT_S."""


class RequestIds:
    """Gives each request id to one stream of all processes. Belongs to one event loop.

    `lookup` waits until a call of a tenant may send commands to the store. `find_local` returns a stream of
    this process, `find` one of another process.
    """

    def __init__(
        self,
        claims: RequestClaims,
        process: str,
        *,
        lookup: Callable[[str], AbstractAsyncContextManager[None]],
        find_local: Callable[[str], StreamHandle | None],
        find: Callable[[str, str, int | None], Awaitable[StreamHandle]],
    ) -> None:
        self._claims = claims
        self._process = process
        self._lookup = lookup
        self._find_local = find_local
        self._find = find
        self._taken: dict[str, tuple[str, str, Claim]] = {}  # by the id of a stream of this process
        self._releases: dict[str, Release] = {}  # those that wait, by stream id
        self._losses = 0  # how often Redis may have lost claims since they were taken again
        self._is_outdated = asyncio.Event()  # set while claims in Redis must be updated

    @asynccontextmanager
    async def claim(
        self, request_id: str, body_hash: bytes, tenant: str
    ) -> AsyncIterator[StreamHandle | str]:
        """Claim the id of a request for all processes, see `StreamDirectory.claim`."""
        claim = Claim(new_stream_id(), self._process, body_hash)
        give_up = time.monotonic() + CLAIM_WAIT_S
        while True:
            taken = await self._take(tenant, request_id, claim, give_up)
            if taken.stream_id == claim.stream_id:
                break
            async with self._lookup(tenant):
                is_lost = await self._claims.is_lost(taken)
            # This comes last: the caller must join the stream before the next await. Later, its copy may have
            # been dropped.
            stream = await self._claimed(taken, tenant)
            if stream is None:
                is_free = is_lost or taken.process == self._process or time.monotonic() > give_up
            else:
                is_free = stream.frees_request_id or (is_lost and not stream.has_content)
            if is_free:
                async with self._lookup(tenant):
                    await self._claims.release([Release(tenant, request_id, taken)])
            elif stream is None:  # the other process is opening it
                await asyncio.sleep(CLAIM_EVERY_S)
            elif stream.body_hash != body_hash:
                raise RequestIdReused(request_id)
            else:
                yield stream
                return
        try:
            yield claim.stream_id
        finally:
            if self._find_local(claim.stream_id) is None:
                # No stream was opened. The call may be cancelled, so this does not wait.
                self._release(Release(tenant, request_id, claim))
            else:
                self._taken[claim.stream_id] = (tenant, request_id, claim)

    async def _take(self, tenant: str, request_id: str, claim: Claim, give_up: float) -> Claim:
        """Return the claim that a request id has, which is this one if there was none."""
        while True:
            async with self._lookup(tenant):
                taken = await self._claims.find(tenant, request_id)
                if taken is not None:
                    return taken
                if time.monotonic() > give_up or not await self._claims.may_be_lost():
                    return await self._claims.take(tenant, request_id, claim)
            await asyncio.sleep(CLAIM_EVERY_S)

    async def _claimed(self, claim: Claim, tenant: str) -> StreamHandle | None:
        """Return the stream of a claim, if it has been opened."""
        local = self._find_local(claim.stream_id)
        if local is not None:
            return local
        try:
            return await self._find(claim.stream_id, tenant, 0)
        except StreamNotFound:
            return None

    def added(self, stream: StreamHandle) -> None:
        """Claim a request id again if its stream has ended and is kept for longer. Idempotent."""
        is_open = stream.end_time is None
        if is_open or not stream.request_id or stream.id in self._taken:
            return
        claim = Claim(stream.id, self._process, stream.body_hash)
        self._taken[stream.id] = stream.tenant, stream.request_id, claim
        self._releases.pop(stream.id, None)
        self.restore()

    def removed(self, stream: StreamHandle) -> None:
        """Give up the claim of a stream that this process has removed. Idempotent.

        Other processes can find the stream in Redis until it expires, unless it was deleted. So long, its
        request id keeps the claim.
        """
        taken = self._taken.pop(stream.id, None)
        if taken is None:
            return
        after_s = 0.0
        if stream.end_time is not None and not stream.is_deleted:
            after_s = max(0.0, stream.end_time + stream.retention.log_ttl_s - time.time())
        self._release(Release(*taken, after_s))

    def restore(self) -> None:
        """Claim again what Redis may have lost."""
        self._losses += 1
        self._is_outdated.set()

    async def run(self) -> None:
        """Update the claims in Redis until cancelled."""
        is_failing = False
        while True:
            await self._is_outdated.wait()
            try:
                await self._update()
            except StoreUnavailable as error:
                if not is_failing:
                    logger.warning("the claims of request ids are out of date: %s", error.detail)
                is_failing = True
                await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.0))  # noqa: S311  # not a secret
            else:
                is_failing = False

    async def _update(self) -> None:
        """Raises StoreUnavailable. Then, and after a cancellation, the claims are still out of date."""
        if self._losses:
            losses = self._losses
            await self._claims.take_again(list(self._taken.values()))
            self._losses -= losses
        while self._releases:
            releases = dict(islice(self._releases.items(), MAX_AT_ONCE))
            await self._claims.release(list(releases.values()))
            for stream_id in releases:
                self._releases.pop(stream_id, None)
        if not self._losses:
            self._is_outdated.clear()

    def _release(self, release: Release) -> None:
        if len(self._releases) < MAX_RELEASES:
            self._releases[release.claim.stream_id] = release
            self._is_outdated.set()
