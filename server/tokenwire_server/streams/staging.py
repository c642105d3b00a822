"""The stages of one stream, and what runs beside them: the timer of held text, and checks of moderation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Self

from ..content.choice import stages_of
from ..content.filter_stage import FilterStage
from ..content.moderation_stage import ModerationStage
from ..content.report_stage import ReportStage
from ..content.stages import Stages
from ..content.structured.stage import StructuredOutput
from ..errors import TokenwireError
from ..events import AnswerEntry
from ..ledger.record import FilterAction
from ..providers.decode.base import Complete
from ..request import ChatRequest
from ..routing.owner import Routing
from ..telemetry import internal_fault
from .holding import HoldTimer
from .moderating import ModerationChecks


class AnswerStages:
    """The stages of one answer, with their timer and their checks. Belongs to one event loop.

    A stage may end the answer, or make it an error, while nothing arrives from the provider: then `on_end` is
    called.
    """

    __slots__ = ("_acting", "_checks", "_has_checks", "_hold_timer", "_stages")

    def __init__(
        self,
        stages: Stages,
        acting: list[FilterStage | ReportStage | ModerationStage],
        *,
        hold_timer: HoldTimer | None,
        checks: ModerationChecks | None,
        has_checks: bool,
    ) -> None:
        self._stages = stages
        self._acting = acting
        """The stages whose actions are recorded."""
        self._hold_timer = hold_timer
        self._checks = checks
        self._has_checks = has_checks

    @classmethod
    def of(
        cls,
        request: ChatRequest,
        routing: Routing,
        tenant: str,
        append: Callable[[AnswerEntry], object],
        on_end: Callable[[], object],
    ) -> Self | None:
        """Return the stages for the answer to a request, or None if there are none.

        `append` takes the entries that have passed.
        """
        moderators = routing.moderation.of_output(tenant, request.model)
        checked = [(ModerationStage(each.name, each.config), each) for each in moderators]
        moderations = [stage for stage, _ in checked]
        made = stages_of(request, routing.filters, tenant, moderations)
        if not made:
            return None
        stages = Stages(
            made,
            append,
            run_check=partial(routing.checker.run, tenant),
            on_fault=internal_fault,
        )
        checks = ModerationChecks(stages, checked, tenant, on_end) if checked else None
        on_release = None
        if checks is not None:
            on_release, on_end = checks.advance, checks.end
        return cls(
            stages,
            [
                each
                for each in made
                if isinstance(each, FilterStage | ReportStage | ModerationStage)
            ],
            hold_timer=HoldTimer(stages, on_end, on_release) if stages.may_hold else None,
            checks=checks,
            has_checks=bool(checked) or any(isinstance(each, StructuredOutput) for each in made),
        )

    @property
    def append(self) -> Callable[[AnswerEntry], object]:
        """Passes an entry of the answer."""
        if self._checks is not None:
            return self._append_and_check
        return self._append

    @property
    def end(self) -> Complete | None:
        """How a stage ended the answer. None: none did."""
        return self._stages.end

    @property
    def failure(self) -> TokenwireError | None:
        """Why the answer is an error, although the provider did not fail. None: it is not."""
        return self._stages.failure

    @property
    def actions(self) -> tuple[FilterAction, ...]:
        """What the stages did so far, without those that did nothing."""
        return tuple(self._actions())

    @property
    def has_unchecked(self) -> bool:
        """Whether text passed that a moderation could not check."""
        return any(isinstance(s, ModerationStage) and s.unchecked_count for s in self._acting)

    @property
    def shortest_hold_s(self) -> float:
        """The shortest pause of the answer, in seconds, after which a stage releases what it holds."""
        return self._stages.shortest_hold_s

    @property
    def is_full(self) -> bool:
        """Whether too much text waits for checks to append more now."""
        return self._checks is not None and self._checks.is_full

    async def wait_for_room(self) -> None:
        """Wait until more may be appended. Bounded by the time limits of checks.

        Nothing is read meanwhile, so held text is not released: its match may continue.
        """
        if self._checks is None:
            return
        if self._hold_timer is not None:
            self._hold_timer.close()
        await self._checks.wait_for_room()
        if self._hold_timer is not None:
            self._hold_timer.resume()

    @property
    def has_checks(self) -> bool:
        """Whether stages check the whole answer: `check` must be called before it ends."""
        return self._has_checks

    async def check(self) -> None:
        """Wait for the checks of the whole answer. It is complete."""
        if self._checks is not None:
            self._stages.release()
            await self._checks.settle()
        await self._stages.check()

    def finish(self, end: Complete | None) -> None:
        """See `Stages.finish`."""
        self._stages.finish(end)

    def close(self) -> None:
        """Stop the timer, and cancel the checks: the stream has ended. Idempotent."""
        if self._hold_timer is not None:
            self._hold_timer.close()
            self._hold_timer = None  # it refers to the stream
        if self._checks is not None:
            self._checks.close()

    async def aclose(self) -> None:
        """Close, and wait until the checks have ended."""
        self.close()
        if self._checks is not None:
            await self._checks.aclose()

    @property
    def _append(self) -> Callable[[AnswerEntry], object]:
        return (self._hold_timer or self._stages).append

    def _append_and_check(self, entry: AnswerEntry) -> None:
        self._append(entry)
        if self._checks is not None:
            self._checks.advance()

    def _actions(self) -> Iterator[FilterAction]:
        for stage in self._acting:
            if not isinstance(stage, ModerationStage):
                if stage.count:
                    yield FilterAction(stage.name, stage.action, stage.count)
                continue
            if stage.is_flagged:
                yield FilterAction(stage.name, "block", 1)
            if stage.unchecked_count:
                yield FilterAction(stage.name, "unchecked", stage.unchecked_count)
