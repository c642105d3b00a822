"""Finds the streams of this process by their ids and by the ids of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from ..errors import Overloaded, RequestIdReused, StreamNotFound
from .handle import StreamHandle

MAX_CLAIM_WAITERS = 16
"""Most calls that wait for the same request id, each with its request. The next one gets OVERLOADED."""


class _Claim(asyncio.Lock):
    """The claim to one request id."""

    waiter_count = 0


class StreamDirectory:
    """The streams that can be found. Belongs to one event loop.

    Finding is asynchronous, because a directory that is shared with other replicas has to wait for its
    store.
    """

    def __init__(self) -> None:
        self._by_id: dict[tuple[str, str], StreamHandle] = {}  # by tenant and stream id
        self._by_request: dict[tuple[str, str], StreamHandle] = {}  # by tenant and request id
        self._claims = WeakValueDictionary[tuple[str, str], _Claim]()

    async def find(self, stream_id: str, tenant: str) -> StreamHandle:
        """Return a stream by its id. Raises StreamNotFound."""
        stream = self._by_id.get((tenant, stream_id))
        if stream is None:
            raise StreamNotFound
        return stream

    @asynccontextmanager
    async def claim(
        self, request_id: str, body_hash: bytes, tenant: str
    ) -> AsyncIterator[StreamHandle | None]:
        """Claim the id of a request while its stream is being opened.

        Yields the stream that an earlier request with this id opened. If it yields None, open the stream in
        the block. Other calls with the same id wait until the block ends. A request without an id claims
        nothing.

        Raises RequestIdReused if the earlier request had another body, and Overloaded if too many calls wait.
        Cancellation leaves nothing behind.
        """
        if not request_id:
            yield None
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
            yield stream
        finally:
            claim.release()

    def add(self, stream: StreamHandle) -> None:
        """Add a stream, and its request id unless another stream has it. Idempotent."""
        self._by_id[stream.tenant, stream.id] = stream
        if stream.request_id:
            self._by_request.setdefault((stream.tenant, stream.request_id), stream)

    def contains(self, stream: StreamHandle) -> bool:
        """Return whether a stream can be found."""
        return (stream.tenant, stream.id) in self._by_id

    def remove(self, stream: StreamHandle) -> None:
        """Remove a stream. Idempotent."""
        self._by_id.pop((stream.tenant, stream.id), None)
        self.release_request_id(stream)

    def release_request_id(self, stream: StreamHandle) -> None:
        """Make a stream's request id available to a new stream. Idempotent."""
        key = stream.tenant, stream.request_id
        if self._by_request.get(key) is stream:
            del self._by_request[key]
