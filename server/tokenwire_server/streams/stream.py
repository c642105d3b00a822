"""One generation: its log, its readers, and the producer that feeds it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..errors import ServerStopped, StreamFailure, TokenwireError
from ..events import Usage
from ..streamlog.base import StreamLog
from .merge import Positioned, merge


class Reader:
    """A cursor in a stream's log, for one RPC. It holds no events, so a slow one costs no memory.

    A context manager: leaving it leaves the stream, and the last to leave ends the generation. That
    is one synchronous step, so it needs no await in the RPC's own cleanup, where grpc.aio may
    interrupt one.
    """

    __slots__ = ("_sequence", "_stream")

    def __init__(self, stream: Stream, after_sequence: int) -> None:
        self._stream = stream
        self._sequence = after_sequence

    async def take(self) -> list[Positioned]:
        """Wait until something is behind the cursor; return it, merged, and move the cursor.

        Returns at once while there is something: thousands of entries, perhaps not all of them. An
        empty list is the end of a stream that finished. Raises the stream's error once everything
        before it was taken, and SlowReader when the log no longer holds what follows the cursor.
        """
        log = self._stream.log
        if log.last_sequence == self._sequence:
            await log.wait(self._sequence)
        entries = log.read(self._sequence)
        if not entries and log.failure is not None:
            raise log.failure
        taken = merge(entries, self._sequence)
        if taken:
            self._sequence = taken[-1][0]
        return taken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(exc, TokenwireError):
            self._stream.tell_usage(exc, self._sequence)
        self._stream.leave(self)


class Stream:
    """One generation of one tenant. Belongs to one event loop.

    Its producer is a task that `LiveStreams` owns: no RPC can interrupt it half-way. It is cancelled,
    once, when the last reader left, or when the server stops; it then closes the upstream and seals
    the log. `on_gone` is called once, when the producer has ended and no reader is left.
    """

    __slots__ = (
        "_interruption",
        "_on_gone",
        "_producer",
        "_readers",
        "_usage",
        "id",
        "log",
        "opened",
        "tenant",
    )

    def __init__(
        self, id: str, tenant: str, log: StreamLog, on_gone: Callable[[Stream], None]
    ) -> None:
        self.id = id
        self.tenant = tenant
        self.log = log
        self.opened = time.monotonic()
        """When it was accepted."""
        self._on_gone = on_gone
        self._readers: set[Reader] = set()
        self._producer: asyncio.Task[None] | None = None
        self._usage: Callable[[], Usage] | None = None
        self._interruption: TokenwireError | None = None

    def fail(self, error: TokenwireError) -> None:
        """Seal the log with an error, which tells what was used if anything was."""
        self.tell_usage(error, self.log.last_sequence)
        self.log.fail(error)

    def tell_usage(self, error: TokenwireError, last_sequence: int) -> None:
        """Say in an error where the stream stands, once it has begun to answer."""
        if error.at is None and self._usage is not None and self.log.last_sequence > 1:
            error.at = StreamFailure(self.id, last_sequence, self._usage())

    @property
    def interruption(self) -> TokenwireError | None:
        """Why the producer was cancelled, when it was not for want of readers."""
        return self._interruption

    def produced_by(self, producer: asyncio.Task[None], usage: Callable[[], Usage]) -> None:
        """Hand over the task that produces this stream; called at most once."""
        self._producer = producer
        self._usage = usage
        producer.add_done_callback(self._produced)
        if self._interruption is not None:
            producer.cancel()

    def join(self, after_sequence: int = 0) -> Reader:
        """A new reader at a cursor. Leave it by leaving its block."""
        reader = Reader(self, after_sequence)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """A reader goes; idempotent. The last one ends the generation and closes the upstream."""
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        if not self._readers:
            self._cancel()
            self._check_gone()

    def stop(self) -> None:
        """The server stops: readers get SERVER_STOPPED after what the log holds."""
        self._interruption = ServerStopped("the stream ended with its server")
        self._cancel()

    def _cancel(self) -> None:
        if self._producer is not None and not self.log.sealed:
            self._producer.cancel()

    def _produced(self, _: asyncio.Task[None]) -> None:
        if not self.log.sealed:  # cancelled before its first step, it could not do so itself
            self.fail(self._interruption or ServerStopped("the stream ended before it began"))
        self._check_gone()

    def _check_gone(self) -> None:
        if not self._readers and (self._producer is None or self._producer.done()):
            self._on_gone(self)
