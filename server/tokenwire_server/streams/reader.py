"""A cursor in the log of a stream, for one RPC."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from ..deadline import TIMER_CONTEXT
from ..errors import SlowReader, StreamFailed, StreamNotFound, StreamPosition, TokenwireError
from ..events import CaughtUp, DrainNotice, Heartbeat, ReaderEvent, Usage
from ..request import Delivery
from ..streamlog.base import StreamLog
from .merge import merge

logger = logging.getLogger(__name__)


class ReadableStream(Protocol):
    """The part of a stream that a reader uses."""

    @property
    def id(self) -> str: ...

    @property
    def log(self) -> StreamLog: ...

    @property
    def is_deleted(self) -> bool:
        """Whether a caller deleted the content."""
        ...

    def usage(self) -> Usage:
        """Return the usage so far."""
        ...

    def leave(self, reader: Reader) -> None:
        """Remove a reader."""
        ...


class Reader:
    """Reads one stream from a cursor. Its memory is bounded by what one `take` returns.

    A context manager: leaving the block leaves the stream, and the last reader that leaves may end the
    generation. Leaving is one synchronous step: grpc.aio can interrupt an await in the cleanup of an RPC.
    """

    __slots__ = (
        "_caught_up_due",
        "_due",
        "_heartbeat_due",
        "_heartbeat_s",
        "_heartbeat_timer",
        "_loop",
        "_sequence",
        "_sleeper",
        "_stream",
        "_taken_at",
        "_usage_s",
        "_usage_timer",
        "deadline",
        "delivered",
    )

    def __init__(
        self,
        stream: ReadableStream,
        after_sequence: int,
        delivery: Delivery,
        *,
        reports_caught_up: bool = False,
        deadline: float | None = None,
    ) -> None:
        self.deadline = deadline
        """When the reader's call ends, a value of `time.monotonic`, or None."""
        self._stream = stream
        self._sequence = after_sequence
        self._caught_up_due = reports_caught_up
        self.delivered = after_sequence
        """The last sequence that was written to the caller. An error that leaves the block reports it."""
        self._loop = asyncio.get_running_loop()
        self._sleeper: asyncio.Future[None] | None = None
        self._taken_at = time.monotonic()  # when events were taken last
        self._heartbeat_due = False
        self._heartbeat_s = delivery.heartbeat_s or 0.0
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        if delivery.heartbeat_s is not None:
            self._heartbeat_timer = self._after(delivery.heartbeat_s, self._beat)
        self._due: tuple[Callable[[], ReaderEvent], ...] = ()
        """Events for this reader alone that do not wait until it has read the log to its end."""
        self._usage_s = delivery.usage_s or 0.0
        self._usage_timer: asyncio.TimerHandle | None = None
        if delivery.usage_s is not None:
            self._usage_timer = self._after(delivery.usage_s, self._want_usage)
        stream.log.subscribe(self._wake)

    async def take(self) -> Sequence[tuple[int, ReaderEvent]]:
        """Wait until there are events after the cursor; return them, merged, and move the cursor.

        Returns at once if there are any: up to 64 KiB of joined text, so perhaps not all. Returns a
        heartbeat if there are none for the heartbeat interval, the usage if it is due, and DrainNotice once
        after `announce_drain`. With `reports_caught_up`, returns CaughtUp once, before it waits for the first
        time. All of these carry the sequence of the cursor. Returns an empty list at the end of a stream that
        finished.

        Raises StreamFailed at the end of a stream that failed, SlowReader if the log has dropped the
        events after the cursor, and StreamNotFound if a caller has deleted them. Cancellation does not
        move the cursor.
        """
        log = self._stream.log
        while log.last_sequence == self._sequence or (
            self._due and self._sequence and not log.sealed  # not before Started, nor at the end
        ):
            if log.sealed:
                if log.failure is not None:
                    raise StreamFailed(self._stream.id, log.failure)
                return []
            if self._due:
                make, *others = self._due
                self._due = tuple(others)
                return self._own(make())
            if self._caught_up_due:
                self._caught_up_due = False
                return self._own(CaughtUp())
            if self._heartbeat_due:
                return self._own(Heartbeat())
            self._sleeper = self._loop.create_future()
            await self._sleeper
        try:
            taken = merge(log.read(self._sequence), self._sequence)
        except SlowReader:
            if self._stream.is_deleted:
                raise StreamNotFound from None
            raise
        self._sequence = taken[-1][0]
        self._taken_at = time.monotonic()
        self._heartbeat_due = False
        return taken

    def announce_drain(self, ends_at: float) -> None:
        """Let the reader get a DrainNotice, unless the stream has ended.

        `ends_at` is when the server ends its streams, a value of `time.monotonic`.
        """
        self._due += (lambda: DrainNotice(max(0.0, ends_at - time.monotonic())),)
        self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stream.log.unsubscribe(self._wake)
        for timer in (self._heartbeat_timer, self._usage_timer):
            if timer is not None:
                timer.cancel()
        if isinstance(exc, SlowReader):
            logger.info(
                "stream %s: a slow reader was ended at sequence %d: %s",
                self._stream.id,
                self.delivered,
                exc,
            )
        if isinstance(exc, TokenwireError):
            self._add_position(exc)
        self._stream.leave(self)

    def _add_position(self, error: TokenwireError) -> None:
        """Add to an error the position of this reader and the usage, unless it has those of the stream."""
        if error.at is None:
            error.at = StreamPosition(self._stream.id, self.delivered, self._stream.usage())

    def _own(self, event: ReaderEvent) -> list[tuple[int, ReaderEvent]]:
        self._taken_at = time.monotonic()
        self._heartbeat_due = False
        return [(self._sequence, event)]

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _beat(self) -> None:
        """Handle the heartbeat timer. Events do not restart it: if it fires too early, it waits again."""
        left_s = self._taken_at + self._heartbeat_s - time.monotonic()
        if left_s <= 0:
            self._heartbeat_due = True
            self._wake()
            left_s = self._heartbeat_s
        self._heartbeat_timer = self._after(left_s, self._beat)

    def _want_usage(self) -> None:
        if self._stream.usage not in self._due:
            self._due += (self._stream.usage,)
            self._wake()
        self._usage_timer = self._after(self._usage_s, self._want_usage)

    def _after(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay_s, call, context=TIMER_CONTEXT)
