"""Moderation of an answer, as a stage between a decoder and a stream's log."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from ..config.moderation import ModerationConfig, ModerationKind
from ..errors import AnswerUnchecked, TokenwireError
from ..events import (
    AnswerEntry,
    InvalidToolCall,
    Logprobs,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from ..moderation.service import Verdict
from ..providers.decode.base import Complete
from .filter_stage import BLOCKED

MAX_IN_FLIGHT = 4
"""Checks of one stream that run at the same time."""
MIN_MAX_WAITING_CHARS = 8 * 1024
MAX_WAITING_WINDOWS = 32
"""Windows of one stream that are not decided, or wait for a window before them. They are small where a model
often changes between text and other content."""
ENTRY_CHARS = 64
"""What an entry that waits counts as, besides its text."""

_Text = TextDelta | ReasoningDelta
_CONTENT = (TextDelta, ReasoningDelta, ToolCallStarted, ToolCallDelta, ToolCall, InvalidToolCall)


class Window(msgspec.Struct, frozen=True):
    """A text to check."""

    number: int
    """From 0, in the order of the answer."""
    text: str
    """The new text, after the end of the text before it."""


class ModerationStage:
    """Divides the text of an answer into windows, and lets others check them.

    A window ends after `window_chars` characters, where the model changes to another kind of content, or when
    `close_window` is called. So the windows do not depend on how the text arrives. Each check also gets the
    last characters of the window before.

    "hold": text passes when its window and all before it are decided. What follows held text waits behind it,
    so the order stays. "follow": everything passes at once. A window that is flagged, or that cannot be
    checked and must be, ends the answer: with "hold" before its text, with "follow" as soon as it is known.

    The caller of `feed` must check the windows of `take_due`, call `close_window` when `open_window` has been
    open for too long, and not call `feed` while `is_full`.
    """

    def __init__(self, name: str, config: ModerationConfig) -> None:
        self.name = name
        self.end: Complete | None = None
        self.failure: TokenwireError | None = None
        self.open_window: int | None = None
        """The number of the window that collects text. None: there is none."""
        self.unchecked_count = 0
        """How many windows passed because they could not be checked."""
        self._holds = config.output == "hold"
        self._fails_open = config.on_failure == "open"
        self._kinds = frozenset(config.applies_to)
        self._window_chars = config.window_chars
        self._overlap_chars = config.overlap_chars
        self._max_waiting_chars = max(
            MIN_MAX_WAITING_CHARS, (MAX_IN_FLIGHT + 2) * config.window_chars
        )
        self._kind: ModerationKind | None = None
        """The kind of the open window."""
        self._fresh: list[str] = []
        self._fresh_chars = 0
        self._tails: dict[ModerationKind, str] = {}
        """The end of the text before the open window, of each kind."""
        self._next_number = 0
        self._due: deque[Window] = deque()
        self._lengths: dict[int, int] = {}
        """The new characters of each window that is not decided."""
        self._undecided_chars = 0
        """The new characters of windows that are not decided, or wait for a window before them."""
        self._verdicts: dict[int, tuple[Verdict | None, int]] = {}
        """Verdicts that wait for those of earlier windows, with "hold". Each with its new characters."""
        self._cleared = 0
        """All windows with lower numbers have passed, with "hold"."""
        self._waiting: deque[_Waiting] = deque()
        self._waiting_chars = 0
        """What the entries that wait count as, without text of windows."""
        self._is_finished = False

    @property
    def is_flagged(self) -> bool:
        return self.end is not None

    @property
    def is_settled(self) -> bool:
        """Whether all text is decided, or nothing further passes."""
        return self._has_ended or (not self._lengths and self.open_window is None)

    @property
    def is_full(self) -> bool:
        """Whether too much is not decided to feed more now."""
        return not self._has_ended and (
            self._undecided_chars + self._fresh_chars + self._waiting_chars
            >= self._max_waiting_chars
            or len(self._lengths) + len(self._verdicts) >= MAX_WAITING_WINDOWS
        )

    def feed(self, entries: Sequence[AnswerEntry]) -> list[AnswerEntry]:
        passed: list[AnswerEntry] = []
        for entry in entries:
            if self._has_ended:
                break
            kind = self._kind_of(entry)
            if kind != self._kind and isinstance(entry, _CONTENT):
                self.close_window()
            if kind is None:
                self._pass(entry, passed)
            else:
                self._collect(kind, entry, passed)  # type: ignore[arg-type]  # it has this kind of text
        return passed

    def close_window(self) -> None:
        """End the open window, if there is one: it is due."""
        number, kind = self.open_window, self._kind
        if number is None or kind is None:
            return
        before = self._tails.get(kind, "")
        text = before + "".join(self._fresh)
        self._due.append(Window(number, text))
        self._lengths[number] = self._fresh_chars
        self._undecided_chars += self._fresh_chars
        self._tails[kind] = text[-self._overlap_chars :] if self._overlap_chars else ""
        self._fresh.clear()
        self._fresh_chars = 0
        self.open_window = self._kind = None

    def take_due(self) -> Window | None:
        """Return the next window to check, or None if there is none or MAX_IN_FLIGHT are not decided."""
        if not self._due or len(self._lengths) - len(self._due) >= MAX_IN_FLIGHT:
            return None
        return self._due.popleft()

    def decide(self, number: int, verdict: Verdict | None) -> list[AnswerEntry]:
        """Take the verdict of a window, in any order. None: it could not be checked. Return what passes."""
        chars = self._lengths.pop(number)
        if self._has_ended:
            return []
        if not self._holds:
            self._undecided_chars -= chars
            self._apply(verdict)
            return []
        self._verdicts[number] = verdict, chars
        while self._cleared in self._verdicts and not self._has_ended:
            decided, chars = self._verdicts.pop(self._cleared)
            self._undecided_chars -= chars
            self._apply(decided)
            if not self._has_ended:
                self._cleared += 1
        return list(self._released())

    def check(self) -> None:
        return None

    def finish(self, end: Complete | None) -> list[AnswerEntry]:  # noqa: ARG002  # as for others
        """Drop what is not decided."""
        self._is_finished = True
        self._drop()
        return []

    @property
    def _has_ended(self) -> bool:
        return self._is_finished or self.end is not None or self.failure is not None

    def _kind_of(self, entry: AnswerEntry) -> ModerationKind | None:
        """Return the kind of the text that an entry adds. None: none that is checked."""
        kind: ModerationKind
        if isinstance(entry, TextDelta):
            kind = "text"
        elif isinstance(entry, ReasoningDelta) and entry.text:
            kind = "reasoning"
        else:
            return None
        return kind if kind in self._kinds else None

    def _collect(self, kind: ModerationKind, entry: _Text, passed: list[AnswerEntry]) -> None:
        """Add the text of an entry to windows."""
        if not self._holds:
            passed.append(entry)
        start, size = 0, len(entry.text)
        while start < size:
            if self.open_window is None:
                self.open_window, self._kind = self._next_number, kind
                self._next_number += 1
            stop = min(size, start + self._window_chars - self._fresh_chars)
            piece = entry.text[start:stop]
            self._fresh.append(piece)
            self._fresh_chars += len(piece)
            if self._holds:
                self._hold(entry, piece, is_last=stop == size)
            if self._fresh_chars == self._window_chars:
                self.close_window()
            start = stop

    def _hold(self, entry: _Text, piece: str, *, is_last: bool) -> None:
        """Let a piece of text wait for the newest window. The last one has the signature of reasoning."""
        number = self._next_number - 1
        if (
            isinstance(entry, ReasoningDelta)
            and is_last
            and (entry.signature or entry.provider_state)
        ):
            self._wait(_Waiting(number, msgspec.structs.replace(entry, text=piece)))
            return
        last = self._waiting[-1] if self._waiting else None
        if last is None or not last.continues(number, entry):
            self._wait(_Waiting(number, type(entry)(piece, entry.index), [piece]))
        else:
            last.pieces.append(piece)

    def _pass(self, entry: AnswerEntry, passed: list[AnswerEntry]) -> None:
        """Pass an entry without text to check, or let it wait for the text before it."""
        if isinstance(entry, Logprobs) and self._holds and "text" in self._kinds:
            return  # it contains the text
        if not self._holds or self._cleared == self._next_number:
            passed.append(entry)
            return
        self._wait(_Waiting(self._next_number - 1, entry))

    def _wait(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._waiting_chars += waiting.chars

    def _apply(self, verdict: Verdict | None) -> None:
        if verdict is None:
            if self._fails_open:
                self.unchecked_count += 1
            else:
                self.failure = AnswerUnchecked(self.name)
        elif verdict.flagged:
            self.end = BLOCKED

    def _released(self) -> Iterator[AnswerEntry]:
        """Yield what waits for windows that have passed."""
        while self._waiting and self._waiting[0].number < self._cleared:
            waiting = self._waiting.popleft()
            self._waiting_chars -= waiting.chars
            yield waiting.whole()
        if self._has_ended:
            self._drop()

    def _drop(self) -> None:
        self._waiting.clear()
        self._due.clear()
        self._fresh.clear()
        self._verdicts.clear()
        self._waiting_chars = self._undecided_chars = self._fresh_chars = 0
        self.open_window = self._kind = None


class _Waiting:
    """An entry that waits until all windows up to `number` have passed."""

    __slots__ = ("chars", "entry", "number", "pieces")

    def __init__(self, number: int, entry: AnswerEntry, pieces: list[str] | None = None) -> None:
        self.number = number
        self.entry = entry
        self.pieces = pieces or []
        """The text of an entry to which more may be added."""
        self.chars = ENTRY_CHARS if pieces else _size_of(entry)
        """What the entry counts as. The text that is checked counts with its window."""

    def continues(self, number: int, entry: _Text) -> bool:
        """Return whether the text of another entry can be added."""
        own = self.entry
        return (
            bool(self.pieces)
            and self.number == number
            and type(own) is type(entry)
            and isinstance(own, _Text)
            and own.index == entry.index
        )

    def whole(self) -> AnswerEntry:
        own = self.entry
        if len(self.pieces) < 2 or not isinstance(own, _Text):
            return own
        return type(own)("".join(self.pieces), own.index)


def _size_of(entry: AnswerEntry) -> int:
    """Return what an entry without text to check counts as, in characters."""
    match entry:
        case ToolCallDelta() | ToolCall():
            return ENTRY_CHARS + len(entry.arguments_json)
        case InvalidToolCall():
            return ENTRY_CHARS + len(entry.arguments_text)
        case TextDelta():
            return ENTRY_CHARS + len(entry.text)
        case ReasoningDelta():
            return ENTRY_CHARS + len(entry.text) + len(entry.signature) + len(entry.provider_state)
        case _:
            return ENTRY_CHARS
