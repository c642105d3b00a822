"""The messages and reasoning items of an OpenAI Responses answer.

Compatible servers repeat a text in up to four events, or send it in only one of them: as deltas, as a whole
part, with its finished item, and in the final response. Each event emits only what was not emitted yet. So
nothing is lost from servers that send few of these events, and nothing is emitted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ....events import Delta, ReasoningDelta, TextInfo, TextPhase
from ..base import MAX_NAME_CHARS
from . import state, wire
from .parts import (
    LOOKAHEAD,
    MAX_EXPLANATION_CHARS,
    OF_MESSAGES,
    OF_REASONING,
    Blocks,
    Part,
    Refusal,
    citation_of,
    match,
    text_of,
)

_PHASES = {"commentary": TextPhase.COMMENTARY, "final_answer": TextPhase.FINAL_ANSWER}


class TextItem:
    """A message or a reasoning item.

    Each part of a message is a block. A reasoning item is one block, because it must be sent back as a whole;
    its parts are separated by an empty line. A block gets its `index` with its first delta.
    """

    __slots__ = (
        "_at",
        "_blocks",
        "_has_state",
        "_index",
        "_latest",
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
        self._at: dict[tuple[str, int | None], Part] = {}
        """Parts by their type and place."""
        self._latest: dict[str, Part] = {}

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
        if place is None:
            return self._latest.get(part_type)
        part = self._at.get((part_type, place))
        if part is None and (unplaced := self._at.pop((part_type, None), None)) is not None:
            part = self._at[part_type, place] = unplaced
            part.place = place
        return part

    def begin_part(self, part_type: str, place: int | None, deltas: list[Delta]) -> Part:
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
        self._at[part_type, place] = self._latest[part_type] = part
        if self._phase:
            phase = _PHASES.get(self._phase, TextPhase.UNSPECIFIED)
            self._emit_info(part, phase, deltas)
        return part

    def cite(
        self, part: Part, place: int | None, annotation: wire.Annotation, deltas: list[Delta]
    ) -> None:
        """Emit the citation that is the part's number `place`, unless it was emitted."""
        place = len(part.cited) if place is None else place
        citation = citation_of(annotation, part.index)
        if place not in part.cited and citation is not None and self._blocks.count_citation():
            part.cited.add(place)
            deltas.append(citation)

    def update_part(self, whole: wire.Part, place: int | None, deltas: list[Delta]) -> None:
        """Emit what was not emitted yet of one whole part."""
        text = text_of(whole)
        part = self.part(whole.type, place)
        if part is None:  # events may count places differently
            latest = islice(reversed(self._parts), LOOKAHEAD)
            open_parts = (p for p in latest if p.type == whole.type and not p.is_whole)
            part = next((p for p in open_parts if p.rest(text) is not None), None)
        self._update_part(part, whole, place, deltas)

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
        self._update_parts(wire.summary_of(item), deltas, with_text=with_text)
        self._update_parts(wire.parts_of(item), deltas, with_text=with_text)
        if self.kind == "message":
            for part in self._parts:
                if self._phase and not part.has_info:  # too late to announce the phase
                    self._emit_info(part, TextPhase.UNSPECIFIED, deltas)
        elif not self._has_state and item.status != "incomplete":
            # The encrypted content of an incomplete item may be incomplete, too.
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

    def _update_parts(
        self, wholes: Sequence[wire.Part], deltas: list[Delta], *, with_text: bool
    ) -> None:
        types = OF_MESSAGES if self.kind == "message" else OF_REASONING
        places = {id(whole): place for place, whole in enumerate(wholes)}
        found = [whole for whole in wholes if whole.type in types and text_of(whole)]
        if not with_text:
            found = [whole for whole in found if whole.annotations or whole.logprobs]
        matches: dict[int, Part] = {}
        for part_type in {whole.type for whole in found}:
            of_type = [whole for whole in found if whole.type == part_type]
            known = [part for part in self._parts if part.type == part_type]
            matches |= match(
                of_type,
                known,
                lambda whole, part: part.place == places[id(whole)] and _is_all(whole, part),
                _is_all,
                lambda whole, part: part.place == places[id(whole)] and _agree(whole, part),
                agree=_agree,
            )
        for whole in found:
            part = matches.get(id(whole))
            if with_text or part is not None:
                self._update_part(part, whole, places[id(whole)], deltas, with_text=with_text)

    def _update_part(
        self,
        part: Part | None,
        whole: wire.Part,
        place: int | None,
        deltas: list[Delta],
        *,
        with_text: bool = True,
    ) -> None:
        text = text_of(whole)
        rest = text if part is None else part.rest(text)
        if part is None:
            part = self.begin_part(whole.type, place, deltas)
        part.is_whole = True
        if rest and with_text:
            part.append(rest, deltas)
        part.add_logprobs((whole.logprobs or [])[part.logprobs_count :], deltas)
        for number, annotation in enumerate(whole.annotations or ()):
            self.cite(part, number, annotation, deltas)

    def agrees(self, item: wire.Item) -> bool:
        """Return whether the content of an item may be that of this item."""
        wholes = (*wire.summary_of(item), *wire.parts_of(item))
        first = next((whole for whole in wholes if text_of(whole)), None)
        if first is None or not self._parts:
            return first is None and not self._parts
        return _agree(first, self._parts[0])

    def is_other(self, item: wire.Item) -> bool:  # noqa: ARG002  # as for calls
        """Return whether an item is certainly not this one."""
        return False


def size_of(item: wire.Item) -> int:
    """Return the size of an item's text, as `TextItem.size` counts."""
    wholes = (*wire.summary_of(item), *wire.parts_of(item))
    return sum(len(text_of(w).encode("utf-16-le", "surrogatepass")) for w in wholes)


def _is_all(whole: wire.Part, part: Part) -> bool:
    """Return whether all of the text of a whole part, and nothing else, was emitted."""
    return part.rest(text_of(whole)) == ""


def _agree(whole: wire.Part, part: Part) -> bool:
    """Return whether a part may have the text of a whole one, of which some may not have been emitted."""
    return _is_all(whole, part) if part.is_whole else part.rest(text_of(whole)) is not None
