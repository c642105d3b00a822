"""The text of an OpenAI Responses answer: the parts of messages and of reasoning items.

Compatible servers repeat a text in up to four events, or send it in only one of them: as deltas, as a whole
part, with its finished item, and in the final response. Each event emits only what was not emitted yet. So
nothing is lost from servers that send few of these events, and nothing is emitted twice.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

from ...errors import UpstreamBroken
from ...events import Delta, ReasoningDelta, TextDelta, TextInfo, TextPhase
from . import openai_responses_state as state
from . import openai_responses_wire as wire
from .base import MAX_NAME_CHARS

MAX_PARTS = 4096
"""Maximum number of items in one answer, of parts, and of items in its final response. An answer with more is
broken."""
MAX_BUFFERED_CHARS = 2 * 2**20
"""Maximum length of the ids, names and arguments that are kept until their calls or the answer end. An answer
with more is broken."""

MAX_EXPLANATION_CHARS = 1024
"""Maximum length of the explanation of a refusal. The text of the answer has all of it."""

OF_MESSAGES = frozenset({"output_text", "refusal"})
OF_REASONING = frozenset({"summary_text", "reasoning_text"})

_PHASES = {"commentary": TextPhase.COMMENTARY, "final_answer": TextPhase.FINAL_ANSWER}
_LOOKAHEAD = 8
"""How many of the next candidates are compared with a whole thing."""
_Whole = TypeVar("_Whole")
_Known = TypeVar("_Known")


class Blocks:
    """Numbers the blocks of one answer, and bounds what is kept of them. Methods raise UpstreamBroken."""

    __slots__ = ("_blocks_count", "_buffered_chars", "_items_count", "_parts_count", "provider")

    def __init__(self, provider: str) -> None:
        self.provider = provider
        """Name of the provider, for `state.tag`."""
        self._blocks_count = 0
        self._items_count = 0
        self._parts_count = 0
        self._buffered_chars = 0

    def next_index(self) -> int:
        self._blocks_count += 1
        return self._blocks_count - 1

    def count_item(self) -> None:
        self._items_count += 1
        if self._items_count > MAX_PARTS:
            raise UpstreamBroken("the provider's answer has too many items")

    def count_part(self) -> None:
        self._parts_count += 1
        if self._parts_count > MAX_PARTS:
            raise UpstreamBroken("the provider's answer has too many parts")

    def count_chars(self, count: int) -> None:
        """Count characters that are kept, or with a negative number, characters that are not kept anymore."""
        self._buffered_chars += count
        if self._buffered_chars > MAX_BUFFERED_CHARS:
            raise UpstreamBroken("the function calls of the provider's answer are too long")


class Part:
    """A part whose text is emitted. Of the text, only its size and checksum are kept.

    The text counts as UTF-16, so that the halves of a surrogate pair may arrive together or separately.
    """

    __slots__ = ("crc", "has_info", "index", "is_whole", "place", "size", "type")

    def __init__(self, part_type: str, place: int | None, index: int) -> None:
        self.type = part_type
        self.place = place
        """The provider's index of the part in its item."""
        self.index = index
        self.is_whole = False
        """Whether an event had its whole text."""
        self.has_info = False
        """Whether the TextInfo of its block was emitted."""
        self.size = 0
        self.crc = 0

    def add(self, piece: str) -> None:
        units = piece.encode("utf-16-le", "surrogatepass")
        self.size += len(units)
        self.crc = zlib.crc32(units, self.crc)

    def rest(self, whole: str) -> str | None:
        """Return the part of `whole` after the emitted text, or None if `whole` does not begin with it."""
        units = whole.encode("utf-16-le", "surrogatepass")
        if len(units) < self.size or zlib.crc32(units[: self.size]) != self.crc:
            return None
        return units[self.size :].decode("utf-16-le", "surrogatepass")


class Refusal(Part):
    """A part in which the model explains why it refuses. The beginning of the explanation is kept."""

    __slots__ = ("explanation",)

    def __init__(self, part_type: str, place: int | None, index: int) -> None:
        super().__init__(part_type, place, index)
        self.explanation = ""

    def add(self, piece: str) -> None:
        super().add(piece)
        self.explanation += piece[: MAX_EXPLANATION_CHARS - len(self.explanation)]


class TextItem:
    """A message or a reasoning item.

    Each part of a message is a block. A reasoning item is one block, because it must be sent back as a whole;
    its parts are separated by an empty line. A block gets its `index` with its first delta.
    """

    __slots__ = (
        "_blocks",
        "_has_state",
        "_index",
        "_parts",
        "_phase",
        "id",
        "is_added",
        "is_closed",
        "is_cut",
        "is_done",
        "kind",
        "output_index",
    )

    def __init__(self, kind: str, blocks: Blocks) -> None:
        self.kind = kind
        self.id: str | None = None
        self.output_index: int | None = None
        self.is_added = False
        """Whether its start event has arrived."""
        self.is_done = False
        """Whether its end event has arrived."""
        self.is_closed = False
        """Whether that event contained the item's text."""
        self.is_cut = False
        """Whether the provider reported the item as cut off."""
        self._blocks = blocks
        self._index: int | None = None
        """Index of the block of a reasoning item."""
        self._has_state = False
        """Whether the provider state of a reasoning item was emitted."""
        self._phase = ""
        """The phase of a message, in the provider's words."""
        self._parts: list[Part] = []

    @property
    def size(self) -> int:
        """Size of the emitted text."""
        return sum(part.size for part in self._parts)

    @property
    def refusal(self) -> str | None:
        """The beginning of the model's explanation of its refusal. None if it does not refuse."""
        texts = [part.explanation for part in self._parts if isinstance(part, Refusal)]
        return "\n\n".join(texts)[:MAX_EXPLANATION_CHARS] if texts else None

    def part(self, part_type: str, place: int | None) -> Part | None:
        """Return the part at a place. Without a place, return the latest one of the type."""
        unplaced = None
        for part in reversed(self._parts):
            if part.type == part_type and place in (part.place, None):
                return part
            if part.type == part_type and part.place is None:
                unplaced = part
        if unplaced is not None:
            unplaced.place = place
        return unplaced

    def append(
        self, part: Part | None, part_type: str, place: int | None, text: str, deltas: list[Delta]
    ) -> Part:
        """Emit text of a part, which is new if it is None."""
        if part is None:
            part = self._begin_part(part_type, place, deltas)
        part.add(text)
        if self.kind == "message":
            deltas.append(TextDelta(text, part.index))
        else:
            deltas.append(ReasoningDelta(text, part.index))
        return part

    def _begin_part(self, part_type: str, place: int | None, deltas: list[Delta]) -> Part:
        self._blocks.count_part()
        if self.kind == "message":
            index = self._blocks.next_index()
        elif self._index is None:
            index = self._index = self._blocks.next_index()
        else:
            index = self._index
            deltas.append(ReasoningDelta(state.SEPARATOR, index))
        part = (Refusal if part_type == "refusal" else Part)(part_type, place, index)
        self._parts.append(part)
        if self._phase:
            phase = _PHASES.get(self._phase, TextPhase.UNSPECIFIED)
            self._emit_info(part, phase, deltas)
        return part

    def update_part(self, whole: wire.Part, place: int | None, deltas: list[Delta]) -> None:
        """Emit what was not emitted yet of one whole part."""
        text = text_of(whole)
        part = self.part(whole.type, place)
        if part is None:  # the place may be counted differently than in the deltas
            latest = islice(reversed(self._parts), _LOOKAHEAD)
            open_parts = (p for p in latest if p.type == whole.type and not p.is_whole)
            part = next((p for p in open_parts if p.rest(text) is not None), None)
        self._update_part(part, whole.type, place, text, deltas)

    def begin(self, item: wire.Item, deltas: list[Delta]) -> None:  # noqa: ARG002  # as for calls
        """Read the start of the item."""
        self.is_added = True
        self._read_phase(item)

    def _read_phase(self, item: wire.Item) -> None:
        if self.kind == "message":
            self._phase = self._phase or (item.phase or "")[:MAX_NAME_CHARS]

    def update(self, item: wire.Item, deltas: list[Delta], *, with_text: bool = True) -> None:
        """Emit what was not emitted yet of the whole item."""
        self.is_cut = item.status == "incomplete"
        self._read_phase(item)
        if with_text:
            self._update_parts(item.summary or (), deltas)
            self._update_parts(wire.parts_of(item), deltas)
        if self.kind == "message":
            for part in self._parts:
                if self._phase and not part.has_info:  # too late to announce the phase
                    self._emit_info(part, TextPhase.UNSPECIFIED, deltas)
        elif not self._has_state and item.status != "incomplete":  # then its content may be, too
            self._emit_state(item, deltas)

    def _emit_info(self, part: Part, phase: TextPhase, deltas: list[Delta]) -> None:
        part.has_info = True
        data = state.write(self._blocks.provider, state.TextState(self._phase))
        deltas.append(TextInfo(part.index, phase, data))

    def _emit_state(self, item: wire.Item, deltas: list[Delta]) -> None:
        """Emit what the provider needs back of a reasoning item.

        Without encrypted content, OpenAI refuses the item ("Items are not persisted when `store` is set to
        false"). Other servers take the text of the reasoning back, but not a summary.
        """
        parts = tuple((part.type, part.size // 2) for part in self._parts)
        if not item.encrypted_content and not any(kind == "reasoning_text" for kind, _ in parts):
            return
        if self._index is None:
            self._index = self._blocks.next_index()
        self._has_state = True
        whole = state.ReasoningState(item.id or self.id or "", item.encrypted_content or "", parts)
        data = state.write(self._blocks.provider, whole)
        deltas.append(ReasoningDelta("", self._index, provider_state=data))

    def _update_parts(self, wholes: Sequence[wire.Part], deltas: list[Delta]) -> None:
        types = OF_MESSAGES if self.kind == "message" else OF_REASONING
        places = {id(whole): place for place, whole in enumerate(wholes)}
        found = [whole for whole in wholes if whole.type in types and text_of(whole)]
        matches: dict[int, Part] = {}
        for part_type in types:
            of_type = [whole for whole in found if whole.type == part_type]
            known = [part for part in self._parts if part.type == part_type]
            matches |= match(
                of_type,
                known,
                lambda whole, part: part.place == places[id(whole)] and _agree(whole, part),
                _agree,
            )
        for whole in found:
            place, part = places[id(whole)], matches.get(id(whole))
            self._update_part(part, whole.type, place, text_of(whole), deltas)

    def _update_part(
        self, part: Part | None, part_type: str, place: int | None, text: str, deltas: list[Delta]
    ) -> None:
        rest = text if part is None else part.rest(text)
        if rest:
            part = self.append(part, part_type, place, rest, deltas)
        if part is not None:
            part.is_whole = True

    def agrees(self, item: wire.Item) -> bool:
        """Return whether the content of an item may be that of this item."""
        wholes = (*(item.summary or ()), *wire.parts_of(item))
        first = next((whole for whole in wholes if text_of(whole)), None)
        if first is None or not self._parts:
            return first is None and not self._parts
        return _agree(first, self._parts[0])

    def is_other(self, item: wire.Item) -> bool:  # noqa: ARG002  # as for calls
        """Return whether an item is certainly not this one."""
        return False


def match(
    wholes: Sequence[_Whole],
    known: Sequence[_Known],
    is_same: Callable[[_Whole, _Known], bool],
    agree: Callable[[_Whole, _Known], bool],
) -> dict[int, _Known]:
    """Find what is already known of a list of whole things. Return it by the `id()` of each whole thing.

    Servers may number and name things differently in different events. So things that are not the same by
    number or name are matched if their content agrees, and the rest in order. Content that disagrees
    cannot be taken back, and to emit the other content, too, would double it.
    """
    matches: dict[int, _Known] = {}
    open_wholes, open_known = list(wholes), list(known)
    for test in (is_same, agree, lambda _, __: True):
        if test is agree and len(open_wholes) == len(open_known):
            continue
        unmatched = []
        for whole in open_wholes:
            nearest = enumerate(open_known[:_LOOKAHEAD])
            at = next((i for i, candidate in nearest if test(whole, candidate)), None)
            if at is None:
                unmatched.append(whole)
            else:
                matches[id(whole)] = open_known.pop(at)
        open_wholes = unmatched
    return matches


def text_of(part: wire.Part) -> str:
    return (part.refusal if part.type == "refusal" else part.text) or ""


def size_of(item: wire.Item) -> int:
    """Return the size of an item's text, as `TextItem.size` counts."""
    wholes = (*(item.summary or ()), *wire.parts_of(item))
    return sum(len(text_of(w).encode("utf-16-le", "surrogatepass")) for w in wholes)


def _agree(whole: wire.Part, part: Part) -> bool:
    return part.rest(text_of(whole)) is not None
