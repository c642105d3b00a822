"""One stream, as readers and RPCs use it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from ..errors import ResumePointAhead, ResumePointExpired
from ..events import NO_USAGE, Usage
from ..request import Delivery, Retention
from ..streamlog.base import StreamLog
from .reader import Reader


class StreamControl(Protocol):
    """The part of a generation that its handle uses."""

    def usage(self) -> Usage:
        """Return the usage so far."""
        ...

    def cancel(self) -> None:
        """End the generation: the stream finishes with CANCELLED. Idempotent."""
        ...


class ReaderHost(Protocol):
    """Admits the readers of this process. Each method is one synchronous step."""

    def reader_joins(self, stream: StreamHandle) -> None:
        """Count one more reader of a stream. Raises Overloaded, and then it is not counted."""
        ...

    def reader_left(self, stream: StreamHandle) -> None:
        """Count one reader less, after it has left its stream."""
        ...


class StreamHandle:
    """One stream of one tenant: its log, its readers and its state. Belongs to one event loop.

    A handle generates nothing. While the stream is open, `control` is its generation, which is cancelled
    when the last reader has left and `retention.linger_s` has passed.
    """

    __slots__ = (
        "_control",
        "_host",
        "_linger",
        "_readers",
        "_usage",
        "body_hash",
        "created_time",
        "end_time",
        "id",
        "is_deleted",
        "log",
        "request_id",
        "retention",
        "tenant",
    )

    def __init__(
        self,
        id: str,
        tenant: str,
        log: StreamLog,
        host: ReaderHost,
        *,
        created_time: float,
        request_id: str = "",
        retention: Retention = Retention(),  # noqa: B008  # frozen
        body_hash: bytes = b"",
    ) -> None:
        self.id = id
        self.tenant = tenant
        self.log = log
        self.request_id = request_id
        self.body_hash = body_hash
        """Hash of the request that opened the stream. Set only with a request id."""
        self.retention = retention
        self.created_time = created_time
        """When the stream was accepted, in seconds since the epoch."""
        self.end_time: float | None = None
        """When it ended, or None while it is open. A change of the system's clock does not affect the
        difference to `created_time`."""
        self.is_deleted = False
        """Whether a caller deleted the content."""
        self._host = host
        self._control: StreamControl | None = None
        self._usage = NO_USAGE
        self._readers: set[Reader] = set()
        self._linger: asyncio.TimerHandle | None = None

    @property
    def reader_count(self) -> int:
        """The number of readers."""
        return len(self._readers)

    @property
    def latest_deadline(self) -> float | None:
        """The latest deadline of the readers, a value of `time.monotonic`.

        None if a reader has no deadline, or if there is no reader.
        """
        deadlines = [reader.deadline for reader in self._readers]
        known = [deadline for deadline in deadlines if deadline is not None]
        return max(known) if known and len(known) == len(deadlines) else None

    def usage(self) -> Usage:
        """Return the usage so far, or the final usage of an ended stream."""
        return self._usage if self._control is None else self._control.usage()

    def attach(self, control: StreamControl) -> None:
        """Attach the stream's generation. Called once, before anything else."""
        self._control = control

    def detach(self, usage: Usage, end_time: float) -> None:
        """Detach the generation, and keep the final usage. Called once, after the log was sealed."""
        self._control = None
        self._usage = usage
        self.end_time = end_time
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def cancel(self) -> None:
        """End the generation: the stream finishes with CANCELLED. No effect on an ended stream."""
        if self._control is not None:
            self._control.cancel()

    def join(
        self,
        after_sequence: int = 0,
        delivery: Delivery = Delivery(),  # noqa: B008  # frozen
        *,
        reports_caught_up: bool = False,
        deadline: float | None = None,
    ) -> Reader:
        """Return a new reader that starts after a sequence. Leave its block to leave the stream.

        `deadline` is when the reader's call ends, a value of `time.monotonic`. With `reports_caught_up`, it
        gets CaughtUp when it has read all that the log has and the stream continues. Raises
        ResumePointAhead, ResumePointExpired, Overloaded.
        """
        earliest, latest = self.log.earliest_sequence, self.log.last_sequence
        if after_sequence > latest:
            raise ResumePointAhead(after_sequence, earliest=earliest, latest=latest)
        if after_sequence < earliest - 1:
            raise ResumePointExpired(after_sequence, earliest=earliest, latest=latest)
        self._host.reader_joins(self)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        reader = Reader(
            self,
            after_sequence,
            delivery,
            reports_caught_up=reports_caught_up,
            deadline=deadline,
        )
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Remove a reader. Idempotent.

        When the last reader leaves, the generation is cancelled: at once, or after `retention.linger_s`.
        """
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        if not self._readers and not self.log.sealed:
            if self.retention.linger_s is None:
                self.cancel()
            else:
                loop = asyncio.get_running_loop()
                self._linger = loop.call_later(self.retention.linger_s, self.cancel)
        self._host.reader_left(self)
