"""Writing to a caller, and the one word for a caller who is gone."""

from __future__ import annotations

import grpc.aio
from grpc._cython.cygrpc import ExecuteBatchError  # raised by a write that a cancel interrupted

from ..events import Event
from . import codec

STREAM_ID_KEY = "tokenwire-stream-id"

Context = grpc.aio.ServicerContext[bytes, bytes]


class PeerGone(Exception):
    """The caller cancelled, died, or passed its deadline, while something was written to it.

    Anywhere else the same reaches a handler as CancelledError.
    """


class Writer:
    """The caller's end of one RPC."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    async def begin(self, stream_id: str) -> None:
        """Send the initial metadata. It commits the RPC: no client retries it from here on."""
        try:
            await self._context.send_initial_metadata(((STREAM_ID_KEY, stream_id),))
        except ExecuteBatchError as error:
            raise PeerGone from error

    async def send(self, sequence: int, event: Event) -> None:
        """Write one event; return when the transport took it. Raises PeerGone."""
        try:
            await self._context.write(codec.encode(sequence, event))
        except ExecuteBatchError as error:
            raise PeerGone from error
