"""A content filter that blocks or redacts, as a stage between a decoder and a stream's log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from ..config.filters import FilteredKind
from ..errors import TokenwireError
from ..events import (
    AnswerEntry,
    Citation,
    FinishReason,
    InvalidToolCall,
    JsonResult,
    Logprobs,
    Notice,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)
from ..providers.decode.arguments import is_object
from ..providers.decode.base import Complete
from .filter_set import ConfiguredFilter
from .filters import Filter

BLOCKED = Complete(FinishReason.CONTENT_FILTER)
CHANGED_ARGUMENTS = "a content filter changed the arguments"
TEXT: FilteredKind = "text"
REASONING: FilteredKind = "reasoning"
ARGUMENTS: FilteredKind = "tool_arguments"
MAX_WAITING = 100
"""Citations of a block that wait for its text. With more of them, all pass at once."""
MAX_BLOCKS = 1000
"""Blocks that are remembered. A block before these that continues is filtered as a new one."""


class FilterStage:
    """Filters each block of the kinds that the filter applies to.

    Text that may be the beginning of a match is held. Other entries of its block do not wait for it, except
    citations, whose positions may change. When a new block begins, the text of the blocks before it ends.
    Calls may be interleaved: the arguments of each end with its ToolCall.

    Log probabilities of the text are dropped, because they contain it.
    """

    __slots__ = (
        "_blocks",
        "_compiled",
        "_count",
        "_current",
        "_has_arguments",
        "_has_changed_call",
        "_has_reasoning",
        "_has_text",
        "_has_valid_call",
        "_held",
        "_is_reasoning_changed",
        "_last_index",
        "action",
        "end",
        "failure",
        "hold_s",
        "is_holding",
        "name",
    )

    def __init__(self, chosen: ConfiguredFilter) -> None:
        config = chosen.config
        self.name = chosen.name
        self.action = config.action
        self.end: Complete | None = None
        self.failure: TokenwireError | None = None
        self.hold_s = config.hold_s
        self._compiled = chosen.compiled
        self._has_text = TEXT in config.applies_to
        self._has_reasoning = REASONING in config.applies_to
        self._has_arguments = ARGUMENTS in config.applies_to
        self._count = 0
        """How often the filter acted in texts that are not remembered."""
        self._blocks: dict[int, _Block] = {}
        self._held: dict[int, _Block] = {}
        """The blocks with text that is held."""
        self.is_holding = False
        self._current: _Block | None = None
        """The block whose text was fed last."""
        self._last_index = -1
        self._is_reasoning_changed = False
        self._has_valid_call = self._has_changed_call = False

    @property
    def count(self) -> int:
        """How often the filter acted."""
        return self._count + sum(count_of(block.filter) for block in self._blocks.values())

    def feed(self, entries: Sequence[AnswerEntry]) -> list[AnswerEntry]:
        passed: list[AnswerEntry] = []
        for entry in entries:
            if self.end is not None:
                break
            if (
                type(entry) is not TextDelta
                or (text := self.feed_text(entry.text, entry.index)) is None
            ):
                self._feed(entry, passed)
            elif text:
                passed.append(entry if text == entry.text else TextDelta(text, entry.index))
        return passed

    def feed_text(self, text: str, index: int) -> str | None:
        block = self._current
        if block is None or index != block.index or block.waiting or self.end is not None:
            return None
        filter_ = block.filter
        shown = filter_.feed(text)
        if filter_.is_blocked or (not filter_.held) is block.is_held:
            self._after(block, [])  # passes nothing: no citations wait
        return shown

    def check(self) -> None:
        return None

    def release(self) -> list[AnswerEntry]:
        passed: list[AnswerEntry] = []
        self._release(self._held.values(), passed)
        return passed

    def finish(self, end: Complete | None) -> list[AnswerEntry]:
        passed = self.release()
        if (
            self.end is None
            and end is not None
            and end.reason is FinishReason.TOOL_CALLS
            and self._has_changed_call
            and not self._has_valid_call
        ):
            self.end = msgspec.structs.replace(end, reason=FinishReason.INVALID_TOOL_CALLS)
        return passed

    def _feed(self, entry: AnswerEntry, passed: list[AnswerEntry]) -> None:
        if isinstance(entry, Notice | JsonResult):
            passed.append(entry)
            return
        if entry.index > self._last_index:
            self._last_index = entry.index
            self._release([held for held in self._held.values() if held.kind != ARGUMENTS], passed)
            if self.end is not None:
                return
        if isinstance(entry, TextDelta) and self._has_text:
            block = self._current = self._block(TEXT, entry.index, _text)
            self._feed_block(block, entry, entry.text, passed)
        elif isinstance(entry, ReasoningDelta) and self._has_reasoning:
            self._feed_reasoning(entry, passed)
        elif isinstance(entry, ToolCallDelta) and self._has_arguments:
            block = self._block(ARGUMENTS, entry.index, ToolCallDelta)
            self._feed_block(block, entry, entry.arguments_json, passed)
        elif isinstance(entry, ToolCall | InvalidToolCall) and self._has_arguments:
            self._feed_call(entry, passed)
        elif isinstance(entry, Citation) and self._has_text:
            self._feed_citation(entry, passed)
        elif not (isinstance(entry, Logprobs) and self._has_text):
            passed.append(entry)

    def _block(
        self, kind: FilteredKind, index: int, delta: Callable[[int, str], AnswerEntry]
    ) -> _Block:
        block = self._blocks.get(index)
        if block is None:
            if len(self._blocks) >= MAX_BLOCKS:
                self._forget_block()
            new = _Block(kind, index, self._compiled.new(), partial(delta, index))
            block = self._blocks[index] = new
        return block

    def _forget_block(self) -> None:
        """Forget the first block without text that is held."""
        index = next((index for index in self._blocks if index not in self._held), None)
        if index is not None:
            self._count += count_of(self._blocks.pop(index).filter)

    def _feed_block(
        self, block: _Block, entry: AnswerEntry, text: str, passed: list[AnswerEntry]
    ) -> None:
        shown = block.feed(text)
        if shown:
            passed.append(entry if shown == text else block.delta(shown))
        self._after(block, passed)

    def _feed_reasoning(self, entry: ReasoningDelta, passed: list[AnswerEntry]) -> None:
        """Filter a piece of reasoning. Without its original text, a signature would be refused.

        The state of several blocks may follow in one entry, and contain their text.
        """
        block = self._block(REASONING, entry.index, _reasoning)
        shown = block.feed(entry.text)
        signature, state = entry.signature, entry.provider_state
        if signature or state:
            shown += block.release()
        self._after(block, passed)
        if self._is_reasoning_changed or self.end is not None:
            signature, state = "", b""
        if not (shown or signature or state):
            return
        if (shown, signature, state) == (entry.text, entry.signature, entry.provider_state):
            passed.append(entry)
        else:
            passed.append(ReasoningDelta(shown, entry.index, signature, state))

    def _feed_call(self, entry: ToolCall | InvalidToolCall, passed: list[AnswerEntry]) -> None:
        """Filter a whole call. It agrees with its fragments, if there were any."""
        text = entry.arguments_json if isinstance(entry, ToolCall) else entry.arguments_text
        block = self._blocks.get(entry.index)
        if block is not None:
            self._release([block], passed)
            if self.end is not None:
                return
        if block is not None and "".join(block.fed) == text:
            shown = "".join(block.shown)
        else:
            whole = self._compiled.new()
            shown = whole.feed(text) + whole.finish()
            self._count += count_of(whole)
            if whole.is_blocked:
                self.end = BLOCKED
                return
        if block is not None:
            block.fed.clear()
            block.shown.clear()
        if shown == text:
            passed.append(entry)
        elif isinstance(entry, InvalidToolCall):
            passed.append(msgspec.structs.replace(entry, arguments_text=shown))
            return
        elif is_object(shown):
            passed.append(msgspec.structs.replace(entry, arguments_json=shown))
        else:
            self._has_changed_call = True
            passed.append(
                InvalidToolCall(entry.index, entry.id, entry.name, shown, CHANGED_ARGUMENTS)
            )
            return
        self._has_valid_call = self._has_valid_call or isinstance(entry, ToolCall)

    def _feed_citation(self, entry: Citation, passed: list[AnswerEntry]) -> None:
        block = self._blocks.get(entry.index)
        if block is None:
            passed.append(entry)
            return
        fed_chars = block.filter.decided_chars + block.filter.held_chars
        block.waiting.append((fed_chars, entry))
        self._pass_citations(block, passed, at_once=len(block.waiting) > MAX_WAITING)

    def _release(self, blocks: Iterable[_Block], passed: list[AnswerEntry]) -> None:
        for block in tuple(blocks):
            if self.end is not None:
                return
            shown = block.release()
            if shown:
                passed.append(block.delta(shown))
            self._after(block, passed)

    def _after(self, block: _Block, passed: list[AnswerEntry]) -> None:
        """Record the state of a block after its filter got text, or released it."""
        if block.filter.is_blocked:
            self.end = BLOCKED
            self._held.clear()
            self.is_holding = False
            return
        if block.kind == REASONING and self.action == "redact" and block.filter.findings:
            self._is_reasoning_changed = True
        block.is_held = bool(block.filter.held)
        if block.is_held:
            self._held[block.index] = block
        else:
            self._held.pop(block.index, None)
        self.is_holding = bool(self._held)
        if block.waiting:
            self._pass_citations(block, passed)

    def _pass_citations(
        self, block: _Block, passed: list[AnswerEntry], *, at_once: bool = False
    ) -> None:
        """Pass the citations whose text has passed."""
        decided_chars = block.filter.decided_chars
        while block.waiting and (at_once or block.waiting[0][0] <= decided_chars):
            _, citation = block.waiting.popleft()
            passed.append(block.placed(citation))


def count_of(filter_: Filter) -> int:
    """Return how often a filter has acted."""
    return sum(found.count for found in filter_.findings.values())


class _Block:
    """One block of the answer."""

    __slots__ = ("delta", "fed", "filter", "index", "is_held", "kind", "shown", "waiting")

    def __init__(
        self,
        kind: FilteredKind,
        index: int,
        filter_: Filter,
        delta: Callable[[str], AnswerEntry],
    ) -> None:
        self.kind = kind
        self.index = index
        self.filter = filter_
        self.delta = delta
        """Returns the entry for a piece of text."""
        self.is_held = False
        """Whether the filter held text after the last piece."""
        self.fed: list[str] = []
        """The arguments of a call, to compare them with the whole."""
        self.shown: list[str] = []
        """What was shown of the arguments."""
        self.waiting: deque[tuple[int, Citation]] = deque()
        """Citations that wait until as many characters of the block have passed."""

    def feed(self, text: str) -> str:
        shown = self.filter.feed(text)
        if self.kind == ARGUMENTS:
            self.fed.append(text)
            self.shown.append(shown)
        return shown

    def release(self) -> str:
        shown = self.filter.release()
        if self.kind == ARGUMENTS:
            self.shown.append(shown)
        return shown

    def placed(self, citation: Citation) -> Citation:
        """Return a citation without its positions if text before its end was changed."""
        changes = [found.first_position for found in self.filter.findings.values()]
        if not changes or (citation.start is None and citation.end is None):
            return citation
        if citation.end is not None and citation.end <= min(changes):
            return citation
        return msgspec.structs.replace(citation, start=None, end=None)


def _text(index: int, text: str) -> TextDelta:
    return TextDelta(text, index)


def _reasoning(index: int, text: str) -> ReasoningDelta:
    return ReasoningDelta(text, index)
