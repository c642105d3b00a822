"""A cursor in a stream's log, for one RPC."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import SlowReader, StreamNotFound, TokenwireError
from ..events import Heartbeat, ReaderEvent
from ..request import Delivery
from .merge import merge

if TYPE_CHECKING:
    from .stream import Stream

logger = logging.getLogger(__name__)


class Reader:
    """Reads one stream from a cursor. It holds no more than it takes at once, however slow it is.

    A context manager: leaving it leaves the stream, and the last to leave decides over the generation.
    That is one synchronous step, so it needs no await in the RPC's own cleanup, where grpc.aio may
    interrupt one.
    """

    __slots__ = (
        "_heartbeat_due",
        "_heartbeat_timer",
        "_loop",
        "_sequence",
        "_sleeper",
        "_stream",
        "_taken_at",
        "_usage_due",
        "_usage_timer",
        "delivered",
    )

    def __init__(self, stream: Stream, after_sequence: int, delivery: Delivery) -> None:
        self._stream = stream
        self._sequence = after_sequence
        self.delivered = after_sequence
        """The last sequence that reached the caller: of what was taken, perhaps not all. An error that
        leaves the block tells it."""
        self._loop = asyncio.get_running_loop()
        self._sleeper: asyncio.Future[None] | None = None
        self._taken_at = time.monotonic()  # when something was taken last
        self._heartbeat_due = False
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        if delivery.heartbeat_s is not None:
            self._heartbeat_timer = self._loop.call_later(
                delivery.heartbeat_s, self._beat, delivery.heartbeat_s
            )
        self._usage_due = False
        self._usage_timer: asyncio.TimerHandle | None = None
        if delivery.usage_s is not None:
            self._usage_timer = self._loop.call_later(
                delivery.usage_s, self._want_usage, delivery.usage_s
            )
        stream.log.subscribe(self._wake)

    async def take(self) -> Sequence[tuple[int, ReaderEvent]]:
        """Wait until something is behind the cursor; return it, merged, and move the cursor.

        Returns at once while there is something: up to 64 KiB of joined text, perhaps not all. When
        there is nothing for the heartbeat's interval, it is a heartbeat; when the usage is due, the
        usage. Both bear the cursor. An empty list is the end of a stream that finished.

        Raises the stream's error once everything before it was taken, and SlowReader when the log no
        longer holds what follows the cursor (StreamNotFound when it was deleted). Cancelled, it leaves
        the cursor where it was.
        """
        log = self._stream.log
        while log.last_sequence == self._sequence or (
            self._usage_due
            and self._sequence
            and not log.sealed  # not before Started, nor at the end
        ):
            if log.sealed:
                if log.failure is not None:
                    # Raised again by every reader: it must not gather and keep their frames.
                    raise log.failure.with_traceback(None)
                return []
            if self._usage_due:
                self._usage_due = False
                return self._made(self._stream.usage())
            if self._heartbeat_due:
                return self._made(Heartbeat())
            self._sleeper = self._loop.create_future()
            await self._sleeper
        try:
            taken = merge(log.read(self._sequence), self._sequence)
        except SlowReader:
            if self._stream.deleted:
                raise StreamNotFound from None
            raise
        self._sequence = taken[-1][0]
        self._taken_at = time.monotonic()
        self._heartbeat_due = False
        return taken

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
                "stream %s: a reader was let go at %d: %s", self._stream.id, self.delivered, exc
            )
        if isinstance(exc, TokenwireError):
            self._stream.tell_usage(exc, self.delivered)
        self._stream.leave(self)

    def _made(self, event: ReaderEvent) -> list[tuple[int, ReaderEvent]]:
        self._taken_at = time.monotonic()
        self._heartbeat_due = False
        return [(self._sequence, event)]

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _beat(self, interval_s: float) -> None:
        """The heartbeat's timer. It does not move at each event: fired too early, it waits the rest."""
        left_s = self._taken_at + interval_s - time.monotonic()
        if left_s <= 0:
            self._heartbeat_due = True
            self._wake()
            left_s = interval_s
        self._heartbeat_timer = self._loop.call_later(left_s, self._beat, interval_s)

    def _want_usage(self, interval_s: float) -> None:
        self._usage_due = True
        self._wake()
        self._usage_timer = self._loop.call_later(interval_s, self._want_usage, interval_s)
