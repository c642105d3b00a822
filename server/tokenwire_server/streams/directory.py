"""Finds the streams of this process by their ids and by the ids of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from ..errors import RequestIdReused, StreamNotFound
from ..tenants.caller import DEFAULT_TENANT
from .handle import StreamHandle


class StreamDirectory:
    """The streams that can be found. Belongs to one event loop.

    Finding is asynchronous, because a directory that is shared with other replicas has to wait for its
    store.
    """

    def __init__(self) -> None:
        self._by_id: dict[tuple[str, str], StreamHandle] = {}  # by tenant and stream id
        self._by_request: dict[
            tuple[str, str], tuple[StreamHandle, bytes]
        ] = {}  # with its body's hash
        self._claims = WeakValueDictionary[tuple[str, str], asyncio.Lock]()

    async def find(self, stream_id: str, tenant: str = DEFAULT_TENANT) -> StreamHandle:
        """Return a stream by its id. Raises StreamNotFound."""
        stream = self._by_id.get((tenant, stream_id))
        if stream is None:
            raise StreamNotFound
        return stream

    @asynccontextmanager
    async def claim(
        self, request_id: str, body_hash: bytes, tenant: str = DEFAULT_TENANT
    ) -> AsyncIterator[StreamHandle | None]:
        """Claim the id of a request while its stream is being opened.

        Yields the stream that an earlier request with this id opened, or None: then open the stream in the
        block. Other calls with the same id wait until the block ends. A request without an id claims
        nothing. Raises RequestIdReused if the earlier request had another body.
        """
        if not request_id:
            yield None
            return
        key = tenant, request_id
        lock = self._claims.get(key)
        if lock is None:
            lock = self._claims[key] = asyncio.Lock()
        async with lock:
            stream, known_hash = self._by_request.get(key, (None, body_hash))
            if known_hash != body_hash:
                raise RequestIdReused(request_id)
            yield stream

    def add(self, stream: StreamHandle, body_hash: bytes) -> None:
        """Add a stream. `body_hash` identifies the request that opened it."""
        self._by_id[stream.tenant, stream.id] = stream
        if stream.request_id:
            self._by_request[stream.tenant, stream.request_id] = stream, body_hash

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
        if key in self._by_request and self._by_request[key][0] is stream:
            del self._by_request[key]
