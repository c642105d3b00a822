"""The log of a stream: its events in order, and its end. The only place where readers read.

Appending never waits and never blocks the upstream: a log that is shared with other replicas writes
behind. Sequences begin at 1 and are contiguous; `after_sequence` is exclusive, 0 is the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import TokenwireError
from ..events import Event, Finished


class StreamLog(Protocol):
    """One stream's events.

    A log is open, then sealed once: finished, with Finished as its last entry, or failed, with an
    error that every reader gets after the last entry. The first seal wins.
    """

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest entry; 0 while there is none."""
        ...

    @property
    def sealed(self) -> bool:
        """Nothing will be appended any more."""
        ...

    @property
    def failure(self) -> TokenwireError | None:
        """Why the stream failed; None while it is open and when it finished."""
        ...

    def append(self, event: Event) -> int:
        """Add an entry and wake waiting readers; return its sequence. A sealed log raises ValueError."""
        ...

    def finish(self, event: Finished) -> bool:
        """Seal with a deliberate end. False: it was sealed before, and nothing changed."""
        ...

    def fail(self, error: TokenwireError) -> bool:
        """Seal with an error. False: it was sealed before, and nothing changed."""
        ...

    def read(self, after_sequence: int) -> Sequence[Event]:
        """The entries after a sequence, oldest first, perhaps none, perhaps not all: read on.

        Raises SlowReader when the first of them is gone.
        """
        ...

    async def wait_sealed(self) -> None:
        """Return once the log is sealed. Bounded and cancelled as `wait`."""
        ...

    async def wait(self, after_sequence: int) -> None:
        """Return once there is an entry after `after_sequence`, or the log is sealed.

        Bounded by the stream's own limits: every stream is sealed in the end. Cancelled, it leaves
        nothing behind.
        """
        ...
