"""A content filter that only counts, as a stage between a decoder and a stream's log."""

from __future__ import annotations

from collections.abc import Sequence

from ..config.filters import FilteredKind
from ..errors import TokenwireError
from ..events import (
    AnswerEntry,
    InvalidToolCall,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)
from ..providers.decode.base import Complete
from .filter_set import ConfiguredFilter
from .filter_stage import MAX_BLOCKS, count_of
from .filters import Filter


class ReportStage:
    """Counts matches. All entries pass at once, as they are."""

    def __init__(self, chosen: ConfiguredFilter) -> None:
        self.name = chosen.name
        self.action = chosen.config.action
        self.end: Complete | None = None
        self.failure: TokenwireError | None = None
        self._compiled = chosen.compiled
        self._kinds = frozenset(chosen.config.applies_to)
        self._filters: dict[int, Filter] = {}
        """By the index of the block. The last MAX_BLOCKS of them."""
        self._count = 0
        """How often something was found in the blocks before."""

    @property
    def count(self) -> int:
        """How often something was found."""
        return self._count + sum(map(count_of, self._filters.values()))

    def feed(self, entries: Sequence[AnswerEntry]) -> Sequence[AnswerEntry]:
        for entry in entries:
            if isinstance(entry, TextDelta):
                self._read("text", entry.index, entry.text)
            elif isinstance(entry, ReasoningDelta):
                self._read("reasoning", entry.index, entry.text)
            elif isinstance(entry, ToolCallDelta):
                self._read("tool_arguments", entry.index, entry.arguments_json)
            elif (
                isinstance(entry, ToolCall | InvalidToolCall) and entry.index not in self._filters
            ):  # otherwise its fragments were read
                self._read("tool_arguments", entry.index, _arguments(entry))
        return entries

    def feed_text(self, text: str, index: int) -> str:
        self._read("text", index, text)
        return text

    def check(self) -> None:
        return None

    def finish(self, end: Complete | None) -> Sequence[AnswerEntry]:  # noqa: ARG002  # as for others
        for each in self._filters.values():
            each.finish()
        return ()

    def _read(self, kind: FilteredKind, index: int, text: str) -> None:
        if kind not in self._kinds:
            return
        known = self._filters.get(index)
        if known is None:
            if len(self._filters) >= MAX_BLOCKS:
                first = self._filters.pop(next(iter(self._filters)))
                first.finish()
                self._count += count_of(first)
            known = self._filters[index] = self._compiled.new()
        known.feed(text)


def _arguments(call: ToolCall | InvalidToolCall) -> str:
    return call.arguments_json if isinstance(call, ToolCall) else call.arguments_text
