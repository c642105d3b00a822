"""When the tool calls of an answer start, how many run at once, and for how long. Reads no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from ..tools.outcome import ToolOutcome
from .tool_loop import PendingCall


@dataclass(frozen=True, slots=True)
class EndedCall:
    """A call that has ended, with the time of its end."""

    pending: PendingCall
    outcome: ToolOutcome
    time: float


class ToolSchedule:
    """The calls of one answer. Each starts once and ends once."""

    def __init__(
        self, calls: Iterable[PendingCall], *, max_concurrency: int, tool_timeout_s: float | None
    ) -> None:
        self._waiting = deque(calls)
        self._started: dict[PendingCall, float] = {}
        self._max_concurrency = max_concurrency
        self._tool_timeout_s = tool_timeout_s

    @property
    def is_empty(self) -> bool:
        """Whether all calls have ended."""
        return not self._waiting and not self._started

    def start(self, now: float) -> list[PendingCall]:
        """Return the calls that start now."""
        free = self._max_concurrency - len(self._started)
        calls = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        self._started.update(dict.fromkeys(calls, now))
        return calls

    def wait_s(self, now: float) -> float | None:
        """Return the time until a call is overdue, 0 if one is. None: none will be."""
        if self._tool_timeout_s is None or not self._started:
            return None
        return max(0.0, min(self._started.values()) + self._tool_timeout_s - now)

    def overdue(self, now: float) -> list[PendingCall]:
        """Return the running calls whose time is over. They stay in the schedule until `end`."""
        limit_s = self._tool_timeout_s
        if limit_s is None:
            return []
        return [call for call, began in self._started.items() if now - began >= limit_s]

    def end(self, call: PendingCall, ended: float) -> float | None:
        """End a call that ran until this time, and return how long it took. None: it has ended before."""
        began = self._started.pop(call, None)
        return None if began is None else ended - began
