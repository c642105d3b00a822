"""The end of the process, as requests see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..problems import Problem


class Shutdown:
    """Whether the process is shutting down. One object: `app.state.shutdown`.

    At first it is only requested: the process is not ready and accepts no connections, and what is open
    may continue. When the grace period is over, what is still open must end.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        """Set by SIGTERM or SIGINT. An idle WebSocket should close itself now."""
        self.is_ending = False
        """Whether the grace period is over."""
        self._callbacks: set[Callable[[], object]] = set()

    def end(self) -> None:
        """End what is open: call every callback of `ended_by`."""
        self.requested.set()
        self.is_ending = True
        for callback in list(self._callbacks):
            callback()

    @contextmanager
    def ended_by(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call `callback` when the grace period ends within the block. It must not block.

        A stream passes what makes it stop waiting, such as its call's `cancel`. Then it writes `problem`
        as its last event, so that its caller resumes it elsewhere.
        """
        self._callbacks.add(callback)
        try:
            if self.is_ending:
                callback()
            yield
        finally:
            self._callbacks.discard(callback)

    @staticmethod
    def problem() -> Problem:
        """Return the error of what ends because the process does."""
        return Problem(
            503, "DRAINING", "this edge is shutting down: try again or resume", retry_after_s=1.0
        )
