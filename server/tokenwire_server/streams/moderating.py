"""The checks of one stream's moderations, beside the reading of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context

from ..content.moderation_stage import ModerationStage, Window
from ..content.stages import Stages
from ..moderation.moderator import Moderator
from ..moderation.service import ModerationFailed, Verdict
from ..telemetry import internal_fault


class ModerationChecks:
    """Checks the windows of an answer, and gives the verdicts to its stages. Belongs to one event loop.

    Call `advance` after each change of the stages. The checks are tasks of this object: `aclose` ends them.
    """

    __slots__ = (
        "_changed",
        "_checked",
        "_is_closed",
        "_on_end",
        "_stages",
        "_tasks",
        "_tenant",
        "_timers",
    )

    def __init__(
        self,
        stages: Stages,
        checked: Sequence[tuple[ModerationStage, Moderator]],
        tenant: str,
        on_end: Callable[[], object],
    ) -> None:
        """`on_end` is called when the answer has ended and the text before its end is checked, or when a
        verdict has made it an error.
        """
        self._stages = stages
        self._checked = tuple(checked)
        self._tenant = tenant
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[ModerationStage, tuple[int, asyncio.TimerHandle]] = {}
        """The timer of the open window of each stage, with the number of the window."""
        self._changed = asyncio.Event()
        """Set at each verdict."""
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether too much text waits for verdicts to append more now."""
        return any(stage.is_full for stage, _ in self._checked)

    def advance(self) -> None:
        """Start the checks that are due, and the timers of windows that were opened."""
        if self._is_closed:
            return
        for stage, moderator in self._checked:
            while (window := stage.take_due()) is not None:
                self._start(stage, moderator, window)
            number = stage.open_window
            timed = self._timers.get(stage)
            if timed is not None and timed[0] != number:
                timed[1].cancel()
                del self._timers[stage]
                timed = None
            if number is not None and timed is None:
                delay_s = moderator.config.max_wait_s
                timer = asyncio.get_running_loop().call_later(delay_s, self._close_window, stage)
                self._timers[stage] = number, timer

    async def wait_for_room(self) -> None:
        """Wait until more may be appended: at most as long as the checks that run."""
        while self.is_full and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()

    async def settle(self) -> None:
        """End the windows, and wait for all verdicts. The answer is complete. What passes one moderation goes
        to the next one.
        """
        for stage, _ in self._checked:
            stage.close_window()
            self.advance()
            while not (stage.is_settled or self._is_closed):
                self._changed.clear()
                await self._changed.wait()

    def end(self) -> None:
        """Call `on_end` when the text before the end is checked: a stage has ended the answer."""
        if all(stage.is_settled for stage, _ in self._checked):
            self._on_end()
        else:
            self._run(self._settle_and_end(), "moderation")

    def close(self) -> None:
        """Cancel the checks and the timers: the stream has ended. Idempotent."""
        if self._is_closed:  # a second cancellation would interrupt the closing of connections
            return
        self._is_closed = True
        self._on_end = _nothing  # the stream refers to this object
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()
        self._changed.set()

    async def aclose(self) -> None:
        """Close, and wait until all checks have ended."""
        self.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _close_window(self, stage: ModerationStage) -> None:
        del self._timers[stage]
        stage.close_window()
        self.advance()

    def _start(self, stage: ModerationStage, moderator: Moderator, window: Window) -> None:
        self._run(self._check(stage, moderator, window), f"moderation {stage.name}")

    def _run(self, work: Coroutine[None, None, None], name: str) -> None:
        # In a context of its own, which the connection keeps.
        task = asyncio.get_running_loop().create_task(work, name=name, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle_and_end(self) -> None:
        await self.settle()
        self._on_end()

    async def _check(self, stage: ModerationStage, moderator: Moderator, window: Window) -> None:
        """Check a window. Never raises, except for cancellation."""
        verdict: Verdict | None = None
        try:
            verdict = await moderator.check(window.text, "output", self._tenant)
        except ModerationFailed:
            pass
        except Exception as error:  # noqa: BLE001  # a check that failed; the server's log has the details
            internal_fault(error)
        stages = self._stages
        had_ended = stages.end is not None  # the text before it is still checked
        try:
            stages.resume(stage, stage.decide(window.number, verdict))
            self.advance()
        except Exception as error:  # noqa: BLE001  # the stream fails; the server's log has the details
            stages.fail(internal_fault(error))
        self._changed.set()
        if stages.failure is not None:
            self._on_end()
        elif stages.end is not None and not had_ended:
            self.end()


def _nothing() -> None:
    pass
