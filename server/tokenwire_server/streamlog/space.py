"""The memory of all logs of this process."""

from __future__ import annotations

from collections.abc import Callable


class LogSpace:
    """Counts the bytes of all logs against `max_bytes`.

    Taking space never fails and never waits, because a log never blocks its upstream. Beyond the bound,
    `make_room` is called, which drops what it can. `full` is set if that was not enough.
    """

    def __init__(self, max_bytes: int, make_room: Callable[[], None]) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._make_room = make_room

    @property
    def full(self) -> bool:
        """Whether the bound is reached, so that no new stream is admitted."""
        return self.used_bytes >= self.max_bytes

    def take(self, count: int) -> None:
        """Count bytes as used."""
        self.used_bytes += count
        if self.used_bytes > self.max_bytes:
            self._make_room()

    def give(self, count: int) -> None:
        """Count bytes as free."""
        self.used_bytes -= count
