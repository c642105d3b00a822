"""The stages that an answer passes between the provider's decoder and the stream's log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ..errors import TokenwireError
from ..events import AnswerEntry
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
    """Why the answer is an error although it is complete. Set by `finish`. None: it is not."""

    def feed(self, entries: Sequence[AnswerEntry]) -> Sequence[AnswerEntry]:
        """Take the next entries. Return what passes, in order."""
        ...

    def check(self) -> Check | None:
        """Return what `finish` needs and a process should compute, or None. The answer is complete."""
        ...

    def finish(self, end: Complete | None) -> Sequence[AnswerEntry]:
        """Return what follows the last entry. Called once. `end` is None if the stream fails."""
        ...


class Stages:
    """The stages of one answer, in order.

    `append` takes the entries that passed all of them, and `run_check` runs a check in another process.
    The meter counts what the provider sent, and the log has what passed.
    """

    __slots__ = ("_append", "_run_check", "_stages", "failure")

    def __init__(
        self,
        stages: Sequence[Stage],
        append: Callable[[AnswerEntry], object],
        run_check: Callable[[Check], Awaitable[None]],
    ) -> None:
        self._stages = stages
        self._append = append
        self._run_check = run_check
        self.failure: TokenwireError | None = None
        """Why the answer is an error although it is complete, after `finish`. None: it is not."""

    @property
    def end(self) -> Complete | None:
        """How a stage ended the answer. None: none did."""
        for stage in self._stages:
            if stage.end is not None:
                return stage.end
        return None

    def append(self, entry: AnswerEntry) -> None:
        """Pass an entry of the answer."""
        self._pass((entry,), self._stages)

    async def check(self) -> None:
        """Run the checks that `finish` needs. The answer is complete."""
        for stage in self._stages:
            check = stage.check()
            if check is not None:
                await self._run_check(check)

    def finish(self, end: Complete | None) -> None:
        """Pass what the stages have kept, and what they add to the end. Only the first call has an effect.

        `end` is how the answer ended. None: the stream fails.
        """
        stages, self._stages = self._stages, ()
        for position, stage in enumerate(stages, 1):
            self._pass(stage.finish(end), stages[position:])
            self.failure = self.failure or stage.failure

    def _pass(self, entries: Sequence[AnswerEntry], stages: Sequence[Stage]) -> None:
        for stage in stages:
            entries = stage.feed(entries)
        for entry in entries:
            self._append(entry)
