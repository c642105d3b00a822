"""One stream, as readers and RPCs use it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from typing import Protocol

from ..errors import ResumePointAhead, ResumePointExpired
from ..events import NO_USAGE, Finished, FinishReason, JsonResult, Notice, Started, Usage
from ..request import Delivery, Retention
from ..streamlog.base import StreamLog
from ..streamlog.entries import StreamFacts
from .reader import Reader

STREAM_ID_BYTES = 16
"""128 random bits: an id cannot be guessed. It is written in hexadecimal digits, so that no id looks like an
option of a command."""


_WITHOUT_CONTENT = (Started, Notice, JsonResult, Finished)


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

    @property
    def drain_ends_at(self) -> float | None:
        """When streams that still generate are ended, a value of `time.monotonic`. None: no drain."""
        ...

    def reader_joins(self, stream: StreamHandle) -> None:
        """Count one more reader of a stream. Raises Overloaded, and then it is not counted."""
        ...

    def reader_left(self, stream: StreamHandle) -> None:
        """Count one reader less, after it has left its stream."""
        ...


class _Elsewhere:
    """The readers that a stream has in another process."""

    __slots__ = ("count", "deadline", "timer")

    def __init__(
        self, count: int, deadline: float | None, timer: asyncio.TimerHandle | None
    ) -> None:
        self.count = count
        self.deadline = deadline
        self.timer = timer
        """Removes them, unless they are noted again."""


class StreamHandle:
    """One stream of one tenant: its log, its readers and its state. Belongs to one event loop.

    A handle generates nothing. While the stream is open, `control` is its generation, which is cancelled
    when the last reader has left and `retention.linger_s` has passed. Or the stream belongs to another
    process: then `control` sends messages to that process, and `log` is a copy.
    """

    __slots__ = (
        "_control",
        "_elsewhere",
        "_host",
        "_linger",
        "_readers",
        "_usage",
        "body_hash",
        "created_time",
        "end_time",
        "ends_unread",
        "id",
        "is_deleted",
        "is_out_of_reach",
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
        self.is_out_of_reach = False
        """Whether this is another process's stream that cannot be followed any more. It may continue."""
        self.ends_unread = True
        """Whether the generation ends when the last reader has left."""
        self._host = host
        self._control: StreamControl | None = None
        self._usage = NO_USAGE
        self._readers: set[Reader] = set()
        self._elsewhere: dict[str, _Elsewhere] = {}  # by process
        self._linger: asyncio.TimerHandle | None = None

    @property
    def facts(self) -> StreamFacts:
        """What other processes must know of the stream besides its log."""
        return StreamFacts(
            self.tenant,
            self.created_time,
            self.retention.log_ttl_s,
            self.retention.linger_s,
            self.request_id,
            self.body_hash,
        )

    @property
    def reader_count(self) -> int:
        """The number of readers: in all processes while the stream is open, then in this one."""
        return len(self._readers) + sum(each.count for each in self._elsewhere.values())

    def readers_besides(self, process: str) -> int:
        """Return the number of readers in all processes but one."""
        besides = (each.count for name, each in self._elsewhere.items() if name != process)
        return len(self._readers) + sum(besides)

    @property
    def local_reader_count(self) -> int:
        """The number of readers in this process."""
        return len(self._readers)

    @property
    def is_read_elsewhere(self) -> bool:
        """Whether the stream has readers in other processes."""
        return bool(self._elsewhere)

    @property
    def has_content(self) -> bool:
        """Whether the log has content, or has dropped its beginning. Notices are no content."""
        log = self.log
        return log.earliest_sequence > 1 or not all(
            isinstance(entry, _WITHOUT_CONTENT) for entry in log.read(0)
        )

    @property
    def frees_request_id(self) -> bool:
        """Whether the stream failed or was cancelled before its first content: its request id is free."""
        finished = self.log.finished
        is_cancelled = finished is not None and finished.reason == FinishReason.CANCELLED
        return (self.log.failure is not None or is_cancelled) and not self.has_content

    @property
    def latest_deadline(self) -> float | None:
        """The latest deadline of the readers, a value of `time.monotonic`.

        None if a reader has no deadline, or if there is no reader.
        """
        return _latest([*self._readers, *self._elsewhere.values()])

    @property
    def latest_local_deadline(self) -> float | None:
        """The latest deadline of the readers in this process, see `latest_deadline`."""
        return _latest(self._readers)

    def usage(self) -> Usage:
        """Return the usage so far, or the final usage of an ended stream."""
        return self._usage if self._control is None else self._control.usage()

    def attach(self, control: StreamControl) -> None:
        """Attach the stream's generation. Called once, before anything else."""
        self._control = control

    def detach(self, usage: Usage, end_time: float | None) -> None:
        """Detach the generation, and keep the final usage. Called once, after the log was sealed."""
        self._control = None
        self._usage = usage
        self.end_time = end_time
        self._stop_linger()
        for process in list(self._elsewhere):
            self.note_readers_of(process, 0)

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
        self._stop_linger()
        reader = Reader(
            self,
            after_sequence,
            delivery,
            reports_caught_up=reports_caught_up,
            deadline=deadline,
        )
        self._readers.add(reader)
        if self._host.drain_ends_at is not None:
            reader.announce_drain(self._host.drain_ends_at)
        return reader

    def announce_drain(self, ends_at: float) -> None:
        """Tell the readers that the server ends the stream at a time, a value of `time.monotonic`."""
        for reader in self._readers:
            reader.announce_drain(ends_at)

    def leave(self, reader: Reader) -> None:
        """Remove a reader. Idempotent.

        When the last reader leaves, the generation is cancelled: at once, or after `retention.linger_s`.
        """
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        self._check_unread()
        self._host.reader_left(self)

    def note_readers_of(
        self, process: str, count: int, *, deadline: float | None = None, for_s: float | None = None
    ) -> None:
        """Note how many readers the stream has in another process, and their latest deadline.

        They are forgotten after `for_s`, unless they are noted again. When the last one is gone, that is the
        same as if a reader of this process had left.
        """
        if self.log.sealed:
            count = 0
        before = self._elsewhere.pop(process, None)
        if before is not None and before.timer is not None:
            before.timer.cancel()
        if count:
            loop = asyncio.get_running_loop()
            timer = (
                None if for_s is None else loop.call_later(for_s, self.note_readers_of, process, 0)
            )
            self._elsewhere[process] = _Elsewhere(count, deadline, timer)
            self._stop_linger()
        elif before is not None:
            self._check_unread()

    def _check_unread(self) -> None:
        """End the generation if no reader is left: at once, or after `retention.linger_s`."""
        if self.reader_count or self.log.sealed or not self.ends_unread:
            return
        if self.retention.linger_s is None:
            self.cancel()
        else:
            loop = asyncio.get_running_loop()
            self._linger = loop.call_later(self.retention.linger_s, self.cancel)

    def _stop_linger(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None


def _latest(readers: Collection[Reader | _Elsewhere]) -> float | None:
    known = [reader.deadline for reader in readers if reader.deadline is not None]
    return max(known) if known and len(known) == len(readers) else None


def new_stream_id() -> str:
    """Return an id for a new stream."""
    return secrets.token_hex(STREAM_ID_BYTES)
