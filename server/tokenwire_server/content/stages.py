"""The stages that an answer passes between the provider's decoder and the stream's log."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from ..errors import TokenwireError
from ..events import AnswerEntry, TextDelta
from ..providers.decode.base import Complete


class Check(Protocol):
    """Work that would block the event loop. A process of its own does it."""

    module: str
    """The module that the process runs."""

    def input(self) -> bytes:
        """Return what the process reads from stdin."""
        ...

    def take(self, output: bytes | None) -> None:
        """Take what the process wrote to stdout. None: it failed, or took too long."""
        ...


class Stage(Protocol):
    """One stage of one answer. Its result does not depend on how the deltas are split."""

    end: Complete | None
    """How the stage ended the answer. None: it did not. Set once; nothing passes after it."""
    failure: TokenwireError | None
    """Why the answer is an error although the provider did not fail. Set by `finish`, or by a check. None: it
    is not."""

    def feed(self, entries: Sequence[AnswerEntry]) -> Sequence[AnswerEntry]:
        """Take the next entries. Return what passes, in order."""
        ...

    def check(self) -> Check | None:
        """Return what `finish` needs and a process should compute, or None. The answer is complete."""
        ...

    def finish(self, end: Complete | None) -> Sequence[AnswerEntry]:
        """Return what follows the last entry. Called once. `end` is None if the stream fails."""
        ...


@runtime_checkable
class HoldingStage(Stage, Protocol):
    """A stage that holds entries until what follows them is known."""

    @property
    def is_holding(self) -> bool:
        """Whether it holds anything now."""
        ...

    @property
    def hold_s(self) -> float:
        """The longest pause of the answer after which `release` is called, in seconds."""
        ...

    def release(self) -> Sequence[AnswerEntry]:
        """Return what is held, as if the answer ended here. It may continue."""
        ...


@runtime_checkable
class TextStage(Stage, Protocol):
    """A stage that takes a piece of text without its entry: nearly all entries are text."""

    def feed_text(self, text: str, index: int) -> str | None:
        """Take the next piece of the text block with this index. Return what passes.

        None: nothing was done, and `feed` must take it.
        """
        ...


class Stages:
    """The stages of one answer, in order.

    `append` takes the entries that passed all of them, `run_check` runs a check in another process, and
    `on_fault` returns the error of the stream for an exception of a stage. The meter counts what the provider
    sent, and the log has what passed. Nothing here reads a clock: who appends must call `release` when the
    answer pauses.
    """

    __slots__ = (
        "_append",
        "_holding",
        "_on_fault",
        "_run_check",
        "_stages",
        "_text_stages",
        "end",
        "failure",
    )

    def __init__(
        self,
        stages: Sequence[Stage],
        append: Callable[[AnswerEntry], object],
        *,
        run_check: Callable[[Check], Awaitable[None]],
        on_fault: Callable[[Exception], TokenwireError],
    ) -> None:
        self._stages = stages
        text_stages = [stage for stage in stages if isinstance(stage, TextStage)]
        self._text_stages = text_stages if len(text_stages) == len(stages) else []
        """All stages, if each takes text without its entry. Otherwise none."""
        self._holding = [stage for stage in stages if isinstance(stage, HoldingStage)]
        self._append = append
        self._run_check = run_check
        self._on_fault = on_fault
        self.end: Complete | None = None
        """How a stage ended the answer. None: none did."""
        self.failure: TokenwireError | None = None
        """Why the answer is an error although the provider did not fail. None: it is not."""

    @property
    def may_hold(self) -> bool:
        """Whether there are stages that hold entries back."""
        return bool(self._holding)

    @property
    def shortest_hold_s(self) -> float:
        """The shortest `hold_s` of all stages that hold entries back."""
        return min((stage.hold_s for stage in self._holding), default=math.inf)

    @property
    def hold_s(self) -> float | None:
        """How long the answer may pause until `release` must be called. None: nothing is held."""
        waits = [stage.hold_s for stage in self._holding if stage.is_holding]
        return min(waits) if waits else None

    @property
    def is_holding(self) -> bool:
        """Whether a stage holds anything now."""
        return any(stage.is_holding for stage in self._holding)

    def append(self, entry: AnswerEntry) -> bool:
        """Pass an entry of the answer. Return whether a stage holds anything now, like `is_holding`."""
        if type(entry) is TextDelta and self._text_stages:
            text, index = entry.text, entry.index
            for text_stage in self._text_stages:
                shown = text_stage.feed_text(text, index)
                if shown is None:
                    rest = self._stages[self._stages.index(text_stage) :]
                    self._pass((TextDelta(text, index),), rest)
                    self._find_end()
                    break
                text = shown
                if text_stage.end is not None:
                    self._find_end()
                if not text:
                    break
            else:
                self._append(entry if text == entry.text else TextDelta(text, index))
        else:
            entries: Sequence[AnswerEntry] = (entry,)
            for stage in self._stages:
                entries = stage.feed(entries)
                if stage.end is not None:
                    self.end = self.end or stage.end
            for each in entries:
                self._append(each)
        for holding in self._holding:  # noqa: SIM110  # each token comes here, and `any` takes 0.2 us
            if holding.is_holding:
                return True
        return False

    def release(self, pause_s: float = math.inf) -> None:
        """Pass what stages hold whose longest pause is not longer than `pause_s`."""
        for position, stage in enumerate(self._stages, 1):
            if isinstance(stage, HoldingStage) and stage.is_holding and stage.hold_s <= pause_s:
                self._pass(stage.release(), self._stages[position:])
        self._find_end()

    def resume(self, stage: Stage, entries: Sequence[AnswerEntry]) -> None:
        """Pass what a stage released when a check of it ended."""
        if stage in self._stages:
            self._pass(entries, self._stages[self._stages.index(stage) + 1 :])
            self._find_end()
            self.failure = self.failure or stage.failure

    def fail(self, error: TokenwireError) -> None:
        """Make the answer an error, unless it is one."""
        self.failure = self.failure or error

    async def check(self) -> None:
        """Run the checks that `finish` needs. The answer is complete."""
        self.release()  # the check is of the whole answer
        for stage in self._stages:
            check = stage.check()
            if check is not None:
                await self._run_check(check)

    def finish(self, end: Complete | None) -> None:
        """Pass what the stages have kept, and what they add to the end. Only the first call has an effect.

        `end` is how the answer ended. None: the stream fails. Never raises: a stage that does so makes the
        answer an error.
        """
        stages, self._stages, self._text_stages, self._holding = self._stages, (), [], []
        if end is not None:
            end = self.end or end
        for position, stage in enumerate(stages, 1):
            try:
                self._pass(stage.finish(end), stages[position:])
            except Exception as error:  # noqa: BLE001  # the stream must be sealed; the server's log has the details
                self.failure = self.failure or self._on_fault(error)
            if end is not None and stage.end is not None:
                end = self.end = self.end or stage.end
            self.failure = self.failure or stage.failure

    def _find_end(self) -> None:
        if self.end is None:
            self.end = next((stage.end for stage in self._stages if stage.end is not None), None)

    def _pass(self, entries: Sequence[AnswerEntry], stages: Sequence[Stage]) -> None:
        for stage in stages:
            entries = stage.feed(entries)
        for entry in entries:
            self._append(entry)
