"""Writing to a caller, and the error for a caller that is gone."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import grpc.aio

from ..deadline import SilenceLimit
from ..errors import SlowReader
from ..streams.reader import Reader
from ..tenants.limits import Allowance
from . import codec

STREAM_ID_KEY = "tokenwire-stream-id"
LIMIT_KEY = "tokenwire-limit"

Context = grpc.aio.ServicerContext[bytes, bytes]


class PeerGone(Exception):
    """The caller cancelled, died, or passed its deadline during a read or write of the handler.

    gRPC raises its InternalError for the operation then. At any other time it cancels the handler.
    """


async def begin(
    context: Context,
    stream_id: str,
    allowances: Sequence[Allowance] = (),
    *,
    start: Callable[[], None] | None = None,
) -> None:
    """Send the initial metadata. It commits the RPC: no client retries it after this.

    It is sent completely even if this coroutine is cancelled. The tasks that `start` creates run after gRPC
    has got the metadata, and while it is being sent. Raises PeerGone.
    """
    metadata = ((STREAM_ID_KEY, stream_id), *_limit_metadata(allowances))
    sending = asyncio.ensure_future(context.send_initial_metadata(metadata))
    try:
        if start is not None:
            start()  # the event loop runs tasks in the order in which they were created
        await asyncio.shield(sending)
    except grpc.aio.InternalError as error:
        raise PeerGone from error
    except BaseException:
        # If it were interrupted, gRPC would send it again with the status, which then never arrives.
        await asyncio.wait((sending,))
        sending.exception()
        raise


def _limit_metadata(allowances: Sequence[Allowance]) -> Iterator[tuple[str, str]]:
    """Yield metadata of each limit, of the key or the tenant, whichever has less left."""
    tightest: dict[str, tuple[int, int]] = {}
    for allowance in allowances:
        if allowance.remaining is not None:
            found = (allowance.remaining, allowance.allowed)
            tightest[allowance.limit] = min(found, tightest.get(allowance.limit, found))
    for limit, (remaining, allowed) in tightest.items():
        key = f"{LIMIT_KEY}-{limit.replace('_', '-')}"
        yield key, str(allowed)
        yield f"{key}-remaining", str(remaining)


async def send_within(context: Context, data: bytes, limit_s: float) -> None:
    """Write one message. Raises PeerGone, and SlowReader if the caller accepts nothing for `limit_s`."""
    try:
        async with asyncio.timeout(limit_s):
            await context.write(data)
    except TimeoutError:
        raise _stalled(limit_s) from None
    except grpc.aio.InternalError:
        raise PeerGone from None


def _stalled(limit_s: float) -> SlowReader:
    name = "reader_stall_s"
    return SlowReader(f"the caller accepted nothing for {limit_s:g} s ({name})", limit_name=name)


class Writer:
    """Writes the events of one RPC. A context manager that bounds the time of each write.

    If the caller accepts nothing for `stall_s`, the block ends with SlowReader. Keepalive does not detect
    a caller that no longer reads, because its connection is alive.
    """

    __slots__ = ("_context", "_stall", "_stall_s")

    def __init__(self, context: Context, stall_s: float) -> None:
        self._context = context
        self._stall_s = stall_s
        self._stall = SilenceLimit(stall_s)

    def __enter__(self) -> Self:
        self._stall.__enter__()
        self._stall.pause()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            self._stall.__exit__(exc_type, exc, tb)
        except TimeoutError as stalled:
            raise _stalled(self._stall_s) from stalled

    async def deliver(self, reader: Reader) -> None:
        """Write the events of a reader until its stream has finished. Every token takes this path.

        A write returns when the transport has accepted it. Raises PeerGone, and the error of the stream.
        """
        write, stall, now = self._context.write, self._stall, time.monotonic
        while taken := await reader.take():
            for sequence, event in taken:
                stall.heard_at = now()
                try:
                    await write(codec.encode(sequence, event))
                except grpc.aio.InternalError as error:
                    raise PeerGone from error
                stall.heard_at = math.inf
                reader.delivered = sequence
