"""The memory that all logs of this process may take together."""

from __future__ import annotations

from collections.abc import Callable


class LogSpace:
    """Counts the bytes of all logs against `max_bytes`.

    Taking never fails and never waits, because a log never blocks its upstream: past the bound
    `make_room` is called, which drops what it can, and `full` says whether that was enough.
    """

    def __init__(self, max_bytes: int, make_room: Callable[[], None]) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._make_room = make_room

    @property
    def full(self) -> bool:
        """Nothing new should be let in."""
        return self.used_bytes >= self.max_bytes

    def take(self, count: int) -> None:
        """Count more bytes."""
        self.used_bytes += count
        if self.used_bytes > self.max_bytes:
            self._make_room()

    def give(self, count: int) -> None:
        """Count bytes as free again."""
        self.used_bytes -= count
