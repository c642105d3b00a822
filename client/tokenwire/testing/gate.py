"""A point at which a script waits for the test."""

from __future__ import annotations

import threading
from collections.abc import Callable

WITHIN_S = 10.0
"""Default time limit of the waits of a test, in seconds."""


class Gate:
    """A point at which a script waits until the test opens it, in place of a pause of fixed length.

        gate = Gate()
        fake.add(Script().text("Hel").wait_for(gate).text("lo"))
        ...
        gate.wait_until_reached()
        gate.open()

    A gate stays open. Several scripts may share it. The class is thread-safe.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_open = False
        self._reached = 0

    @property
    def is_open(self) -> bool:
        """Whether the gate was opened."""
        return self._is_open

    def open(self) -> None:
        """Let all scripts continue that wait at the gate, now or later."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def wait_until_reached(self, times: int = 1, *, within_s: float = WITHIN_S) -> None:
        """Wait until scripts have reached the gate `times` times. It blocks: with asyncio, use a thread.

        Raises:
            TimeoutError: they did not reach it within `within_s` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._reached >= times, within_s):
                raise TimeoutError(
                    f"the gate was reached {self._reached} times within {within_s:g} s, not {times}"
                )

    def pass_through(self, is_stopped: Callable[[], bool]) -> None:
        """Wait until the gate is open, or until `wake` is called and `is_stopped`."""
        with self._changed:
            self._reached += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_open or is_stopped())

    def wake(self) -> None:
        """Wake the waiting scripts, so that they check whether they are stopped."""
        with self._changed:
            self._changed.notify_all()
