"""A workaround for how grpc.aio accepts calls. It depends on the internals of gRPC."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from grpc._cython import cygrpc  # type: ignore[attr-defined]

MAX_ACCEPTED = 64
"""Calls that are accepted at once. Accepting them takes a few turns of the event loop."""
_SIGNATURES = {
    "_handle_rpc": "generic_handlers interceptors rpc_state loop concurrency_exceeded",
    "_schedule_rpc_coro": "rpc_coro rpc_state loop",
}
"""The functions of gRPC that handle a call, with their parameters in grpcio 1.83."""


class _AcceptingServer(cygrpc.AioServer):  # type: ignore[misc]
    """Requests calls from gRPC's core, and handles each one in the task that requested it.

    It does not implement `maximum_concurrent_rpcs`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread_pool: Any,
        generic_handlers: Sequence[Any],
        interceptors: Sequence[Any],
        *arguments: Any,
    ) -> None:
        self._own_loop = loop
        self._handlers: list[Any] = []
        self._own_interceptors = tuple(interceptors or ())
        self._calls: set[asyncio.Task[None]] = set()
        self._stopped: asyncio.Future[Any] = loop.create_future()
        super().__init__(loop, thread_pool, generic_handlers, interceptors, *arguments)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        self._handlers.extend(generic_rpc_handlers)
        super().add_generic_rpc_handlers(generic_rpc_handlers)

    async def _request_call(self) -> Any:
        """Accept and handle calls until the server stops, then raise gRPC's error. gRPC calls this once."""
        for _ in range(MAX_ACCEPTED):
            self._request()
        return await self._stopped

    def _request(self) -> None:
        task = asyncio.create_task(self._serve_next())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _serve_next(self) -> None:
        try:
            state = await super()._request_call()
        except Exception as error:  # noqa: BLE001  # when the server stops, all fail; gRPC takes the first
            if not self._stopped.done():
                # Without its traceback, which refers to this frame, and so to the server.
                self._stopped.set_exception(error.with_traceback(None))
            return
        self._request()  # while the server stops, too: then the core ends the calls that wait
        loop = self._own_loop
        call = cygrpc._handle_rpc(self._handlers, self._own_interceptors, state, loop, False)
        await cygrpc._schedule_rpc_coro(call, state, loop)


def _is_known() -> bool:
    """Return whether this version of gRPC handles calls with the functions in _SIGNATURES."""
    return all(
        hasattr(cygrpc, name)
        and " ".join(inspect.signature(getattr(cygrpc, name)).parameters) == parameters
        for name, parameters in _SIGNATURES.items()
    )


@contextmanager
def accepting_many() -> Iterator[None]:
    """Let a server that is created within the block accept up to MAX_ACCEPTED calls at once.

    grpc.aio requests one call from gRPC's core, waits for it, creates its tasks, and then requests the next
    one. Each call takes two or three turns of the event loop. If a turn takes 5 ms, a server accepts at most
    100 calls per second. All others wait, also those that would be refused. On a busy machine, at twice this
    rate, calls waited for 6 s, while events of open streams were hardly late (grpcio 1.83).

    Here several calls are requested at once. The task that requested a call also handles it, which takes
    two turns fewer than passing the call to gRPC's loop.

    This needs `drained_wakeups`. Without it, the loop learns of one accepted call in each turn.

    If gRPC's functions that this calls have other parameters, nothing changes: gRPC accepts one call after
    the other.
    """
    create = cygrpc.AioServer
    if _is_known():
        cygrpc.AioServer = _AcceptingServer
    try:
        yield
    finally:
        cygrpc.AioServer = create
