"""A workaround for how grpc.aio accepts calls. It depends on the internals of gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpc._cython import cygrpc  # type: ignore[attr-defined]

MAX_ACCEPTED = 64
"""Calls that are accepted at once. Accepting them takes a few turns of the event loop."""


class _AcceptingServer(cygrpc.AioServer):  # type: ignore[misc]
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._requests: set[asyncio.Task[None]] = set()
        self._accepted: asyncio.Queue[Any] = asyncio.Queue()
        self._has_ended = False

    async def _server_main_loop(self, started: asyncio.Future[bool]) -> None:
        try:
            await super()._server_main_loop(started)
        finally:
            # Nothing handles the calls that were accepted but not returned yet. gRPC cancels each of them
            # when its object is freed. Otherwise it would stay open until the end of the grace period.
            self._has_ended = True
            while not self._accepted.empty():
                self._accepted.get_nowait()

    async def _request_call(self) -> Any:
        """Return the next call. Raises gRPC's error when the server stops."""
        while len(self._requests) < MAX_ACCEPTED:
            request = asyncio.create_task(self._accept())
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)
        accepted = await self._accepted.get()
        if isinstance(accepted, BaseException):
            raise accepted
        return accepted

    async def _accept(self) -> None:
        try:
            accepted = await super()._request_call()
        except Exception as error:  # noqa: BLE001  # when the server stops, all fail; gRPC takes the first
            accepted = error
        # Now, not when this task is done: the loop that takes the accepted calls runs before that, and counts
        # the requests to replace. After it has taken all of them, nothing would wake it to request others.
        self._requests.discard(asyncio.current_task())
        if not self._has_ended:
            self._accepted.put_nowait(accepted)


@contextmanager
def accepting_many() -> Iterator[None]:
    """Let a server that is created within the block accept up to MAX_ACCEPTED calls at once.

    grpc.aio requests one call from gRPC's core, waits for it, and then requests the next one. Each call takes
    two or three turns of the event loop. If a turn takes 5 ms, a server accepts at most 100 calls per second.
    All others wait, also those that would be refused. On a busy machine, at twice this rate, calls waited for
    6 s, while events of open streams were hardly late (grpcio 1.83).

    This needs `drained_wakeups`. Without it, the loop learns of one accepted call in each turn.

    A version of gRPC that accepts calls in another way ignores this, and nothing changes.
    """
    create = cygrpc.AioServer
    cygrpc.AioServer = _AcceptingServer
    try:
        yield
    finally:
        cygrpc.AioServer = create
