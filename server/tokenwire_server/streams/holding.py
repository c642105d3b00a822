"""The timer of stages that hold entries back: when the answer pauses, they release them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..content.stages import Stages
from ..events import AnswerEntry

MIN_DELAY_S = 0.001
"""The resolution of uvloop's timers."""
MAX_LATE_S = 0.05
"""A timer that fires later than this is set once more: the event loop was busy, and did not read what has
arrived."""


class HoldTimer:
    """Appends to stages that may hold entries, and releases what they hold when the answer pauses.

    Belongs to one event loop. The timer is set when something is held, and not again for each entry: when
    it fires too early, it is set for the rest.
    """

    __slots__ = (
        "_appended_at",
        "_due_at",
        "_on_end",
        "_on_release",
        "_stages",
        "_timer",
        "_was_late",
    )

    def __init__(
        self,
        stages: Stages,
        on_end: Callable[[], object],
        on_release: Callable[[], object] | None = None,
    ) -> None:
        """`on_end` is called if a stage ended the answer when it released what it held; otherwise
        `on_release` is called.
        """
        self._stages = stages
        self._on_release = on_release
        self._on_end = on_end
        self._appended_at = 0.0
        self._due_at = 0.0
        self._was_late = False
        self._timer: asyncio.TimerHandle | None = None

    def append(self, entry: AnswerEntry) -> None:
        """Pass an entry of the answer."""
        if self._stages.append(entry):
            self._appended_at = time.monotonic()
            if self._timer is None:
                self._set(self._stages.shortest_hold_s)

    def resume(self) -> None:
        """Set the timer again after `close`: nothing was read in the meantime."""
        if self._stages.is_holding:
            self._appended_at = time.monotonic()
            if self._timer is None:
                self._set(self._stages.shortest_hold_s)

    def close(self) -> None:
        """Cancel the timer. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, delay_s: float) -> None:
        delay_s = max(MIN_DELAY_S, min(delay_s, self._stages.shortest_hold_s))
        self._due_at = time.monotonic() + delay_s
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._fired)

    def _fired(self) -> None:
        self._timer = None
        stages = self._stages
        if stages.end is not None:  # whoever appends finds it
            return
        now = time.monotonic()
        late_s = now - self._due_at
        self._was_late = late_s > MAX_LATE_S and not self._was_late
        if self._was_late:
            self._set(late_s)
            return
        pause_s = now - self._appended_at
        stages.release(pause_s)
        if stages.end is not None:
            self._on_end()
            return
        if stages.hold_s is not None:
            self._set(stages.hold_s - pause_s)
        if self._on_release is not None:
            self._on_release()
