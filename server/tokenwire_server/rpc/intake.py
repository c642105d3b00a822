"""Bounds on calls, and on the bytes and the time of requests that are not parsed yet."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc.aio

from ..errors import InvalidRequest, Overloaded
from ..request import Violation
from ..tenants.caller import Caller
from .writer import Context, PeerGone

MAX_OPEN_REQUEST_BYTES = 1024
"""Size of one request of a method that needs no key, compressed or not. A larger one gets INVALID_REQUEST."""
PROMPT_S = 0.05
"""A request that takes longer than this to arrive is late. A small one usually comes with its headers."""
LATE_S = 2.0
"""How much longer a late request may take. Then INVALID_REQUEST."""
MAX_LATE_REQUESTS = 8
"""Late requests that may be incomplete at once, of at most 17 MiB each. The next one gets OVERLOADED."""
MAX_WAIT_S = 60.0
"""How long the request of any other method may take to arrive (then INVALID_REQUEST), and how long its
caller may take to accept the last message and the status. 8 MiB take as long at 1.1 Mbit/s."""
TRIM_AFTER_S = 1.0
"""Delay after the last large request before freed memory is returned to the system (25 to 70 ms)."""
TRIM_WITHIN_S = 10.0
"""Longest delay while large requests keep arriving."""
MIN_TRIMMED_BYTES = 64 * 1024
"""Memory is returned after a request that is larger than this."""

Answer = TypeVar("Answer", None, bytes)
Handler = Callable[[bytes, Context, Caller], Awaitable[Answer]]
"""A coroutine that implements a method, from the bytes of its request."""


class CallSlots:
    """Bounds how many calls of one kind are open, for each owner and in total.

    `of` names the owner in the error: a connection, or a tenant.
    """

    def __init__(
        self,
        kind: str,
        *,
        per_owner: int,
        total: int,
        of: str = "on this connection",
        limit_name: str = "",
    ) -> None:
        """`limit_name` is the setting of the bounds, if they have one."""
        self._kind = kind
        self._of = of
        self._limit_name = limit_name
        self._per_owner = per_owner
        self._total = total
        self._open: Counter[str] = Counter()
        self._count = 0

    @contextmanager
    def slot(self, owner: str) -> Iterator[None]:
        """Take a slot for a call of `owner` during the block. Raises Overloaded."""
        if self._open[owner] >= self._per_owner:
            raise Overloaded(
                f"too many {self._kind} {self._of} are open",
                limit=self._per_owner,
                limit_name=self._limit_name,
            )
        if self._count >= self._total:
            raise Overloaded(
                f"too many {self._kind} are open", limit=self._total, limit_name=self._limit_name
            )
        self._open[owner] += 1
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]


class OpenRequests:
    """Receives the requests of methods that need no key. They must be small, and only a few may be slow.

    gRPC has one limit on messages for all methods, and returns only whole messages. So a request that is
    far too large for its method takes memory while it arrives. This class bounds the number of such
    requests, and how long they may take.
    """

    def __init__(self, *, max_late: int = MAX_LATE_REQUESTS, late_s: float = LATE_S) -> None:
        self._max_late = max_late
        self._late_s = late_s
        self._late = 0
        self._trimming: asyncio.TimerHandle | None = None
        self._trim_by = 0.0

    async def receive(self, context: Context) -> bytes | None:
        """Return the call's next request, decompressed; None at the end of its requests.

        Raises InvalidRequest, Overloaded, PeerGone. End the call then: gRPC may still be receiving.
        """
        receiving = asyncio.ensure_future(context.read())
        receiving.add_done_callback(_retrieve)
        try:
            await asyncio.wait((receiving,), timeout=PROMPT_S)
            if not receiving.done():
                await self._wait_for_late(receiving)
            data = receiving.result()
        except BaseException as error:
            receiving.cancel()
            self._trim_soon()
            if isinstance(error, grpc.aio.InternalError):
                raise PeerGone from None
            raise
        if not isinstance(data, bytes):  # grpc.aio.EOF
            return None
        if len(data) > MIN_TRIMMED_BYTES:
            self._trim_soon()
        if len(data) <= MAX_OPEN_REQUEST_BYTES:
            data = inflate(data, MAX_OPEN_REQUEST_BYTES)
        if len(data) > MAX_OPEN_REQUEST_BYTES:
            limit = MAX_OPEN_REQUEST_BYTES
            raise InvalidRequest([Violation("", f"is larger than {limit} bytes")])
        return data

    async def _wait_for_late(self, receiving: asyncio.Future[bytes]) -> None:
        if self._late >= self._max_late:
            raise Overloaded("too many requests arrive slowly", limit=self._max_late)
        self._late += 1
        try:
            await asyncio.wait((receiving,), timeout=self._late_s)
        finally:
            self._late -= 1
        if not receiving.done():
            raise InvalidRequest([Violation("", f"did not arrive within {self._late_s:g} s")])

    def _trim_soon(self) -> None:
        """Schedule the return of memory to the system, for when gRPC has freed a large request.

        Otherwise the allocator keeps the memory in the arenas of gRPC's threads: 600 MiB after 60
        requests of 16 MiB.
        """
        loop = asyncio.get_running_loop()
        if self._trimming is None:
            self._trim_by = loop.time() + TRIM_WITHIN_S
        else:
            self._trimming.cancel()
        due = min(loop.time() + TRIM_AFTER_S, self._trim_by)
        self._trimming = loop.call_at(due, self._trim, loop)

    def _trim(self, loop: asyncio.AbstractEventLoop) -> None:
        self._trimming = None
        loop.run_in_executor(None, _trim_heap)


class Waits:
    """Bounds how many calls wait for their callers at once. Where no place is free, the oldest wait ends.

    One owner, a tenant or a connection, may have half of the places. A call that finds no free place takes
    that of the call that has waited longest: of its owner if the owner has no place left, else of all
    calls. So callers that send or accept nothing do not keep out other callers.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._max_of_owner = max(1, max_waiting // 2)
        self._ends: dict[Hashable, tuple[str, Callable[[], object]]] = {}  # the oldest first
        self._of_owner: dict[str, dict[Hashable, None]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, wait: Hashable, owner: str, end: Callable[[], object]) -> None:
        """Add a wait. `end` is called if a newer wait takes its place."""
        of_owner = self._of_owner.get(owner, {})
        if len(of_owner) >= self._max_of_owner:
            self._end_first(of_owner)
        elif len(self._ends) >= self.max_waiting:
            self._end_first(self._ends)
        self._ends[wait] = (owner, end)
        self._of_owner.setdefault(owner, {})[wait] = None

    def remove(self, wait: Hashable) -> bool:
        """Remove a wait. Return False if a newer one has taken its place."""
        if wait not in self._ends:
            return False
        owner, _ = self._ends.pop(wait)
        of_owner = self._of_owner[owner]
        del of_owner[wait]
        if not of_owner:
            del self._of_owner[owner]
        return True

    def _end_first(self, waits: Iterable[Hashable]) -> None:
        wait = next(iter(waits))
        _, end = self._ends[wait]
        self.remove(wait)
        end()


async def receive_within(max_wait_s: float, context: Context, waits: Waits, owner: str) -> Any:
    """Return the call's request.

    Raises InvalidRequest, PeerGone, and Overloaded if a newer call took the place of this one. End the
    call then: gRPC may still be receiving.
    """
    wait = asyncio.timeout(max_wait_s)

    def end() -> None:
        if not wait.expired():
            wait.reschedule(0)

    waits.add(wait, owner, end)
    has_place = True
    try:
        async with wait:
            try:
                request: Any = await context.read()
            finally:
                has_place = waits.remove(wait)
    except TimeoutError:
        if not has_place:
            limit = waits.max_waiting
            raise Overloaded("too many calls wait for their request", limit=limit) from None
        reason = f"did not arrive within {max_wait_s:g} s"
        raise InvalidRequest([Violation("", reason)]) from None
    except grpc.aio.InternalError:
        raise PeerGone from None
    if request is grpc.aio.EOF:
        raise InvalidRequest([Violation("", "is missing")])
    return request


def _retrieve(receiving: asyncio.Future[bytes]) -> None:
    """Retrieve the exception of a read, so that asyncio does not log an abandoned read as an error."""
    if not receiving.cancelled():
        receiving.exception()


def _trim_heap() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def inflating(handler: Handler[Answer], max_bytes: int) -> Handler[Answer]:
    """Wrap a handler so that it gets its requests decompressed, cut off after `max_bytes` + 1 bytes."""

    @functools.wraps(handler)
    async def inflated(data: bytes, context: Context, caller: Caller) -> Answer:
        if is_compressed(data):
            # 8 MiB take 30 ms. In a thread they do not stop the streams: zlib releases the GIL.
            data = await asyncio.to_thread(inflate, data, max_bytes)
        running = handler(data, context, caller)
        del data  # it can be large, and a stream long
        return await running

    return inflated


def is_compressed(data: bytes) -> bool:
    """Return whether bytes begin as gzip (RFC 1952) or zlib (RFC 1950) do.

    gRPC does not say which messages it left compressed. The first byte of gzip begins no message of
    Protocol Buffers; that of zlib could, which is why `inflate` returns what is not zlib unchanged.
    """
    if data[:1] == b"\x1f":
        return data[:3] == b"\x1f\x8b\x08"
    return data[:1] == b"\x78" and len(data) > 1 and int.from_bytes(data[:2]) % 31 == 0


def inflate(data: bytes, max_bytes: int) -> bytes:
    """Decompress a message, up to `max_bytes` + 1 bytes; return it unchanged if it is not compressed."""
    if not is_compressed(data):
        return data
    inflater = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # gzip or zlib, by the header
    try:
        inflated = inflater.decompress(data, max_bytes + 1)
    except zlib.error:
        return data
    return inflated if inflater.eof or len(inflated) > max_bytes else data
