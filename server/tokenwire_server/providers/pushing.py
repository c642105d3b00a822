"""aiohttp's reader of a body, which can also push: pass on what arrives in the transport's callback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from aiohttp.streams import StreamReader


class PushingProtocol(Protocol):
    """The connection of a `PushReader`."""

    receive: Callable[[bytes], bool] | None
    """Called with the bytes that arrive. If None, they are buffered."""
    push_room_bytes: int
    """Bytes that may still be pushed of what arrived at once. The rest is buffered, and `push` returns."""


class PushReader(StreamReader):
    """aiohttp's `StreamReader` (3.14.5) with `push`.

    A token that is read with `readany` wakes a task through a future, and passes a buffer and a list of
    chunks: 2.5 us. Pushed, it takes 0.7 us.

    aiohttp's parser creates its readers itself. So a reader becomes a PushReader by setting its `__class__`,
    which is possible because this class adds no slots. The function to call is stored on the connection.
    """

    __slots__ = ()

    async def push(self, receive: Callable[[bytes], bool]) -> None:
        """Call `receive` with each piece as it arrives, until it returns False, more arrives at once than may
        be pushed, or the body ends.

        The buffer must be empty. Raises what `receive` raises, and what `readany` raises when the connection
        breaks. Cancellation loses no bytes.
        """
        protocol = cast("PushingProtocol", self._protocol)
        protocol.receive = receive
        try:
            await self._wait("push")
        finally:
            protocol.receive = None

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        protocol = cast("PushingProtocol", self._protocol)
        receive = protocol.receive
        waiter = self._waiter
        if (
            receive is None
            or waiter is None
            or waiter.done()  # `push` was cancelled
            or len(data) > protocol.push_room_bytes
        ):
            return super().feed_data(data, size)
        protocol.push_room_bytes -= len(data)
        self.total_bytes += len(data)
        self._cursor += len(data)  # otherwise the ends of later chunks are never dropped
        try:
            goes_on = receive(data)
        except Exception as error:  # noqa: BLE001  # `push` raises it
            self._wake(waiter, error)
        else:
            if not goes_on:
                self._wake(waiter)
        return False

    def _wake(self, waiter: asyncio.Future[None], error: Exception | None = None) -> None:
        self._waiter = None
        if waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    def end_http_chunk_receiving(self) -> None:
        if self._protocol.receive is None:  # type: ignore[attr-defined]
            super().end_http_chunk_receiving()  # it bounds the number of chunks in the buffer
