"""Limits on waiting."""

from __future__ import annotations

import asyncio
import math
import time
from contextvars import Context
from types import TracebackType
from typing import Self

TIMER_CONTEXT = Context()
"""For timers of one event loop whose callbacks read no context variables. Without it, each timer copies the
current context."""


class SilenceLimit:
    """Ends its block with TimeoutError if `heard` is not called for `limit_s` seconds.

    `pause` stops the clock until the next `heard`.

    It is for events that arrive every few milliseconds. `heard` only stores the time, and the one timer
    starts again only if it fires too early. So the limit is exact and costs almost nothing for each event,
    while `asyncio.timeout` would cancel and create a timer. A cancellation from outside that coincides
    with the limit stays a cancellation.
    """

    __slots__ = ("_before", "_fired", "_loop", "_task", "_timer", "heard_at", "limit_s")

    heard_at: float
    """When `heard` was called last; `math.inf` while the clock is stopped. Code that every token passes sets
    it without these calls."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._fired = False
        self._timer: asyncio.TimerHandle | None = None

    def heard(self, now: float, limit_s: float) -> None:
        """Record an event at `now`, a time of `time.monotonic`, and set the limit from now on."""
        self.heard_at = now
        if limit_s != self.limit_s:
            self.limit_s = limit_s
            if self._timer is not None:
                self._timer.cancel()
                self._timer = self._loop.call_later(limit_s, self._check, context=TIMER_CONTEXT)

    def pause(self) -> None:
        """Stop the clock."""
        self.heard_at = math.inf

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("SilenceLimit needs a task")
        self._task = task
        self._before = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self.heard_at = time.monotonic()
        self._timer = self._loop.call_later(self.limit_s, self._check, context=TIMER_CONTEXT)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (
            self._fired
            and self._task.uncancel() <= self._before
            and isinstance(exc, asyncio.CancelledError)
        ):
            raise TimeoutError(f"silent for {self.limit_s} s") from exc

    def _check(self) -> None:
        left_s = self.heard_at + self.limit_s - time.monotonic()
        if left_s > 0:
            self._timer = self._loop.call_later(
                min(left_s, self.limit_s), self._check, context=TIMER_CONTEXT
            )
            return
        self._timer = None
        self._fired = True
        self._task.cancel()
