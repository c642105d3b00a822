"""Reading of one answer: from the upstream, through the meter and the limits, to the log."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from ..events import Delta, FinishReason, Notice, Usage
from ..providers.base import Upstream
from ..providers.decode.base import Complete
from .answer_steps import append_in_steps, is_one_step
from .cost_limit import CostLimit
from .meter import Meter
from .pacing import ReadPacing
from .time_limits import AnswerTimer


class StagedAnswer(Protocol):
    """The stages that an answer passes before it is appended to the log."""

    @property
    def end(self) -> Complete | None:
        """How a stage ended the answer. None: none did."""
        ...

    @property
    def shortest_hold_s(self) -> float:
        """The shortest pause of the answer, in seconds, after which a stage releases what it holds."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether too much waits in the stages to append more now."""
        ...

    async def wait_for_room(self) -> None:
        """Wait until more may be appended."""
        ...

    @property
    def has_checks(self) -> bool:
        """Whether stages check the whole answer: `check` must be called before it ends."""
        ...

    async def check(self) -> None:
        """Wait for the checks of the whole answer. It is complete."""
        ...


class AnswerReading:
    """Passes an answer from its upstream to `append`, which is that of `stages` if there are any.

    Nearly every token takes the short way: `_take`, which the transport calls as the token arrives. What has
    to wait, and what is rare, is done in `run`.
    """

    __slots__ = (
        "_append",
        "_checking",
        "_cost_limit",
        "_has_content",
        "_idle_s",
        "_is_passed",
        "_last",
        "_longest_pause_s",
        "_meter",
        "_needs_task",
        "_on_first_content",
        "_pacing",
        "_reported",
        "_stages",
        "_timer",
        "_upstream",
        "_usage",
    )

    def __init__(
        self,
        upstream: Upstream,
        meter: Meter,
        timer: AnswerTimer,
        append: Callable[[Delta], object],
        *,
        cost_limit: CostLimit | None,
        pacing: ReadPacing,
        stages: StagedAnswer | None,
        usage: Callable[[], Usage],
        on_first_content: Callable[[], None],
    ) -> None:
        """`usage` returns what the answer has used so far, for the cost limit."""
        self._upstream = upstream
        self._meter = meter
        self._timer = timer
        self._append = append
        self._cost_limit = cost_limit
        self._pacing = pacing
        self._stages = stages
        self._checking = stages if stages is not None and stages.has_checks else None
        """The stages, if text may wait in them."""
        self._usage = usage
        self._on_first_content = on_first_content
        self._idle_s = timer.idle_s
        # The idle limit includes a pause of ours, and what stages hold must not be released because of it.
        hold_s = math.inf if stages is None else stages.shortest_hold_s
        self._longest_pause_s = min(timer.idle_s, hold_s) / 2
        self._has_content = False
        self._reported: Usage | None = None
        self._last: Sequence[Delta] = ()
        """The deltas that arrived last."""
        self._is_passed = True
        """Whether they were passed to `append`."""
        self._needs_task = False
        """Whether `run` has something to do after them."""

    async def run(self) -> Complete | None:
        """Read the answer to its end, to the cost limit, or to where a stage ends it.

        Return the end in the last two cases. None: see `upstream.end`.
        """
        upstream = self._upstream
        while upstream.end is None:
            self._needs_task = False
            if self._has_content:
                await upstream.push(self._take)
            if not self._needs_task and upstream.end is None:
                self._take(await upstream.read())
            end = await self._after_arrival()
            if end is not None:
                return end
        return None

    def _take(self, deltas: Sequence[Delta]) -> bool:
        """Pass on the deltas of one arrival. Return False if `run` has something to do."""
        # Not the loop's clock: uvloop's has steps of a millisecond.
        arrival = time.monotonic()
        stages = self._stages
        self._last = deltas
        if deltas:
            if self._has_content or any(map(_is_content, deltas)):
                self._meter.arrived(deltas, arrival)
            if stages is not None and not is_one_step(deltas):
                self._is_passed = False
                self._needs_task = True
                return False
            for delta in deltas:
                self._append(delta)
        if not self._has_content:
            self._timer.arrived_without_content(arrival)
            return False
        self._timer.heard_at = arrival  # the limit does not change after the first content
        cost_limit = self._cost_limit
        self._needs_task = (
            self._upstream.decoder.usage is not self._reported
            or self._pacing.pause_s > 0
            or (cost_limit is not None and self._meter.chars >= cost_limit.check_at_chars)
            or (stages is not None and stages.end is not None)
            or (self._checking is not None and self._checking.is_full)
        )
        return not self._needs_task

    async def _after_arrival(self) -> Complete | None:
        """Do what is left to do after an arrival. Return an end if the answer ends here."""
        stages = self._stages
        if stages is not None:
            await self._pass_stages(stages)
        if not self._has_content and any(map(_is_content, self._last)):
            self._has_content = True
            self._timer.content_arrived()
            self._timer.heard(time.monotonic(), self._idle_s)
            self._on_first_content()
        if stages is not None and stages.end is not None:
            return stages.end
        upstream = self._upstream
        usage = upstream.decoder.usage
        is_new = usage is not self._reported
        if usage is not None and is_new:
            self._meter.report(usage)
            self._reported = usage
        if upstream.end is not None:
            return None
        if self._is_over_cost(is_new=is_new):
            return Complete(FinishReason.BUDGET)
        if self._has_content and self._pacing.pause_s and not upstream.has_more:
            await asyncio.sleep(min(self._pacing.pause_s, self._longest_pause_s))
        return None

    async def _pass_stages(self, stages: StagedAnswer) -> None:
        """Append what `_take` left, in steps, and wait if too much waits in the stages."""
        is_full = self._checking is not None and self._checking.is_full
        if self._is_passed and not is_full:
            return
        if not self._is_passed:
            self._is_passed = True
            await append_in_steps(self._last, self._append, partial(_rest, stages, self._timer))
        if self._checking is not None and self._checking.is_full:
            await _rest(stages, self._timer)
        arrival = time.monotonic()  # nothing was read in the meantime
        if self._has_content:
            self._timer.heard(arrival, self._idle_s)
        else:
            self._timer.arrived_without_content(arrival)

    def _is_over_cost(self, *, is_new: bool) -> bool:
        """Return whether the answer must stop because of its cost. `is_new`: it has new figures."""
        limit, chars = self._cost_limit, self._meter.chars
        if limit is None or not (is_new or chars >= limit.check_at_chars):
            return False
        only_figures = self._has_content and not self._last
        return limit.reserve_or_stop(self._usage(), chars, only_figures=only_figures)


async def _rest(stages: StagedAnswer, timer: AnswerTimer) -> None:
    """Let other tasks run. If too much waits in the stages, wait until there is room.

    The provider is not silent meanwhile.
    """
    if stages.is_full:
        timer.pause()
        await stages.wait_for_room()
    else:
        await asyncio.sleep(0)


def _is_content(delta: Delta) -> bool:
    return not isinstance(delta, Notice)
