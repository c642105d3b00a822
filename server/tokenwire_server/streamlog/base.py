"""The log of a stream: its events in order, and its end. The only place where readers read.

Appending never waits and never blocks the upstream: a log that is shared with other replicas writes
behind. Sequences begin at 1 and are contiguous; `after_sequence` is exclusive, 0 is the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import Failure
from ..events import Event, Finished


class StreamLog(Protocol):
    """One stream's events.

    A log is open, then sealed once: finished, with Finished as its last entry, or failed, with an
    error that every reader gets after the last entry. The first seal wins.
    """

    @property
    def earliest_sequence(self) -> int:
        """Sequence of the oldest entry that it holds, or of the next one while it holds none."""
        ...

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest entry; 0 while there is none."""
        ...

    @property
    def byte_count(self) -> int:
        """What its entries take in memory."""
        ...

    @property
    def sealed(self) -> bool:
        """Nothing will be appended any more."""
        ...

    @property
    def finished(self) -> Finished | None:
        """How the stream finished; None while it is open and when it failed."""
        ...

    @property
    def failure(self) -> Failure | None:
        """Why the stream failed; None while it is open and when it finished."""
        ...

    def append(self, event: Event) -> int:
        """Add an entry and wake the readers; return its sequence. A sealed log raises ValueError."""
        ...

    def finish(self, event: Finished) -> bool:
        """Seal with a deliberate end. False: it was sealed before, and nothing changed."""
        ...

    def fail(self, failure: Failure) -> bool:
        """Seal with a failure. Return False, and change nothing, if the log was sealed before."""
        ...

    def read(self, after_sequence: int) -> Sequence[Event]:
        """The entries after a sequence, oldest first, perhaps none, perhaps not all: read on.

        Raises SlowReader when the first of them is gone.
        """
        ...

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have `wake` called at each entry and at the seal, until it is unsubscribed.

        It is called in the log's own step: it must neither wait nor raise.
        """
        ...

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        """Call it no more. Idempotent."""
        ...

    async def wait_sealed(self) -> None:
        """Return once the log is sealed; every stream is, in the end. Cancelled, it leaves nothing."""
        ...

    def drop(self) -> None:
        """Forget the content of a sealed log, all but Finished, and give its memory free. Idempotent.

        A reader that has read everything before Finished still gets its end; others get SlowReader.
        """
        ...
