"""The log of a stream: its events in order, and its end. Readers read only from it.

Appending never waits and never blocks the upstream: a log that is shared with other replicas writes in the
background. Sequences begin at 1 and are contiguous. `after_sequence` is exclusive; 0 is the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import Failure
from ..events import Event, Finished


class StreamLog(Protocol):
    """The events of one stream.

    A log is open until it is sealed, once: finished, with Finished as its last entry, or failed, with an
    error that every reader gets after the last entry. The first seal wins.
    """

    @property
    def earliest_sequence(self) -> int:
        """Sequence of the oldest entry in the log, or of the next entry if the log is empty."""
        ...

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest entry. 0 if there was none."""
        ...

    @property
    def byte_count(self) -> int:
        """Size of the entries in memory."""
        ...

    @property
    def sealed(self) -> bool:
        """Whether the log is sealed. Nothing is appended to a sealed log."""
        ...

    @property
    def finished(self) -> Finished | None:
        """How the stream finished. None if it is open or failed."""
        ...

    @property
    def failure(self) -> Failure | None:
        """Why the stream failed. None if it is open or finished."""
        ...

    def append(self, event: Event) -> int:
        """Append an entry, wake the readers, and return the entry's sequence. Raises ValueError if the log is
        sealed.
        """
        ...

    def finish(self, event: Finished) -> bool:
        """Seal the log with a deliberate end. Return False, without a change, if it was sealed before."""
        ...

    def fail(self, failure: Failure) -> bool:
        """Seal the log with a failure. Return False, without a change, if it was sealed before."""
        ...

    def read(self, after_sequence: int) -> Sequence[Event]:
        """Return entries after a sequence, oldest first. There may be more than are returned.

        Raises SlowReader if the first of them was dropped.
        """
        ...

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call `wake` at each entry and at the seal, until it is unsubscribed.

        `wake` is called synchronously by `append`, `finish` and `fail`. It must neither wait nor raise.
        """
        ...

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        """Stop calling `wake`. Idempotent."""
        ...

    async def wait_sealed(self) -> None:
        """Wait until the log is sealed, which happens to every log. Can be cancelled."""
        ...

    def drop(self) -> None:
        """Drop the content of a sealed log, except Finished, and free its memory. Idempotent.

        A reader that has read all entries before Finished still gets Finished. Others get SlowReader.
        """
        ...
