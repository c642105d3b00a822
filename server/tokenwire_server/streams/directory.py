"""Finds the streams of this process by their ids and by the ids of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ..errors import Overloaded, RequestIdReused, StreamNotFound
from .handle import StreamHandle, new_stream_id

if TYPE_CHECKING:
    from .shared import SharedStreams

MAX_CLAIM_WAITERS = 16
"""Most calls that wait for the same request id, each with its request. The next one gets OVERLOADED."""


class _Claim(asyncio.Lock):
    """The claim to one request id."""

    waiter_count = 0


class StreamDirectory:
    """The streams that can be found. Belongs to one event loop.

    With `shared`, the streams of other processes are found too.
    """

    def __init__(self) -> None:
        self.shared: SharedStreams | None = None
        """What shares the streams of this process with others. Set before the first stream is added."""
        self._by_id: dict[str, StreamHandle] = {}
        self._by_request: dict[tuple[str, str], StreamHandle] = {}  # by tenant and request id
        self._claims = WeakValueDictionary[tuple[str, str], _Claim]()

    async def find(
        self, stream_id: str, tenant: str, after_sequence: int | None = None
    ) -> StreamHandle:
        """Return a stream by its id.

        `after_sequence` is where a reader will begin, which must join before the next await, or None if none
        will. Raises StreamNotFound; and for a stream of another process, StoreUnavailable and Overloaded.
        """
        stream = self._by_id.get(stream_id)
        if stream is not None and stream.tenant == tenant:
            return stream
        if self.shared is None:
            raise StreamNotFound
        # Another tenant's stream is looked for like an unknown one, so that the time does not reveal it.
        return await self.shared.find(stream_id, tenant, after_sequence)

    def find_local(self, stream_id: str) -> StreamHandle | None:
        """Return the stream of this process with an id."""
        return self._by_id.get(stream_id)

    async def delete_stored(self, stream: StreamHandle) -> None:
        """Delete what other processes can find of a stream that has ended. Raises StoreUnavailable."""
        if self.shared is not None:
            await self.shared.delete(stream)

    @asynccontextmanager
    async def claim(
        self, request_id: str, body_hash: bytes, tenant: str
    ) -> AsyncIterator[StreamHandle | str]:
        """Claim the id of a request while its stream is being opened.

        Yields the stream that an earlier request with this id opened. Or yields the id for a new stream: open
        it in the block. Other calls with the same request id wait until the block ends. A request without an
        id claims nothing.

        Raises RequestIdReused if the earlier request had another body, and Overloaded if too many calls wait;
        and StoreUnavailable if streams are shared and the store cannot be reached. Cancellation leaves
        nothing behind.
        """
        if not request_id:
            yield new_stream_id()
            return
        key = tenant, request_id
        claim = self._claims.get(key)
        if claim is None:
            claim = self._claims[key] = _Claim()
        if claim.waiter_count >= MAX_CLAIM_WAITERS:
            raise Overloaded("too many calls wait for one request_id", limit=MAX_CLAIM_WAITERS)
        claim.waiter_count += 1
        try:
            await claim.acquire()
        finally:
            claim.waiter_count -= 1
        try:
            stream = self._by_request.get(key)
            if stream is not None and stream.body_hash != body_hash:
                raise RequestIdReused(request_id)
            if stream is not None:
                yield stream
            elif self.shared is None:
                yield new_stream_id()
            else:
                async with self.shared.claim(request_id, body_hash, tenant) as found:
                    yield found
        finally:
            claim.release()

    def add(self, stream: StreamHandle) -> None:
        """Add a stream, and its request id unless another stream has it. Idempotent."""
        self._by_id[stream.id] = stream
        if stream.request_id:
            self._by_request.setdefault((stream.tenant, stream.request_id), stream)
        if self.shared is not None:
            self.shared.added(stream)

    def contains(self, stream: StreamHandle) -> bool:
        """Return whether a stream can be found."""
        return stream.id in self._by_id

    def remove(self, stream: StreamHandle) -> None:
        """Remove a stream. Idempotent."""
        if self._by_id.get(stream.id) is stream:
            del self._by_id[stream.id]
            if self.shared is not None:
                self.shared.removed(stream)
        self.release_request_id(stream)

    def release_request_id(self, stream: StreamHandle) -> None:
        """Make a stream's request id available to a new stream. Idempotent."""
        key = stream.tenant, stream.request_id
        if self._by_request.get(key) is stream:
            del self._by_request[key]
