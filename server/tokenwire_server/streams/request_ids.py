"""The ids of requests, each of which belongs to one stream of all processes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from ..errors import RequestIdReused, StoreUnavailable, StreamNotFound
from ..streamlog.redis.claims import Claim, RequestClaims
from .handle import StreamHandle, new_stream_id

logger = logging.getLogger(__name__)

CLAIM_WAIT_S = 10.0
"""How long a request waits for another process that opens the stream of the same request id. A stream that
has not been opened then never will be."""
CLAIM_EVERY_S = 0.05
"""Pause before it looks again."""


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
        self._background: set[asyncio.Task[None]] = set()

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
                    await self._claims.release(tenant, request_id, taken)
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
                self._run_in_background(self._claims.release(tenant, request_id, claim))
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

    def forget(self, stream_id: str) -> None:
        """Do not restore the claim of a stream any more. Idempotent."""
        self._taken.pop(stream_id, None)

    def restore(self) -> None:
        """Claim again what Redis may have lost."""
        self._run_in_background(self._claims.take_again(list(self._taken.values())))

    def close(self) -> None:
        """Stop what runs in the background."""
        for task in self._background:
            task.cancel()

    def _run_in_background(self, work: Coroutine[None, None, object]) -> None:
        async def run() -> None:
            try:
                await work
            except StoreUnavailable as error:
                logger.warning("the claims of request ids are out of date: %s", error.detail)

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
