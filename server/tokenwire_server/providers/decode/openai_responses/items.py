"""The items of an OpenAI Responses answer: messages, reasoning, and function calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ....errors import UpstreamBroken
from ....events import Delta, FinishReason, Refusal
from ..base import Complete
from ..json import join_surrogates
from ..openai_chat.blocks import generated_id
from . import wire
from .calls import Call
from .parts import MAX_PARTS, OF_MESSAGES, Blocks, Part, match
from .texts import TextItem, size_of

_MAX_OPEN = 64

_Item = TextItem | Call


class Items:
    """The items of one answer. Converts events to deltas.

    Events name their item by its id and its index in the answer. Compatible servers leave out one of them or
    both, send another id in each event, or the same index for all items. So an item is found by an id that
    is known, or else by its index, or else it is the latest one of its kind.

    Methods append to `deltas`. They raise UpstreamBroken.
    """

    def __init__(self, provider: str) -> None:
        self._blocks = Blocks(provider)
        self._items: list[_Item] = []
        self._latest: dict[str, _Item] = {}
        """The latest item of each kind."""
        self._by_id: dict[tuple[str, str], _Item] = {}
        self._by_index: dict[tuple[str, int], _Item] = {}
        self._by_call_id: dict[str, Call] = {}
        self._open_parts: dict[tuple[str, int | None, str | None, int | None], Part] = {}
        """Parts of the latest deltas, which are found here faster."""
        self._open_calls: dict[tuple[int | None, str | None], Call] = {}
        """The same for calls."""

    def append_text(self, part_type: str, at: wire.Event, deltas: list[Delta]) -> None:
        """Append the event's text to its part."""
        if not at.delta and not at.logprobs:
            return
        part = self.part_of(part_type, at, deltas)
        if at.delta:
            part.append(at.delta, deltas)
        if at.logprobs:
            part.add_logprobs(at.logprobs, deltas)

    def part_of(self, part_type: str, at: wire.Event, deltas: list[Delta]) -> Part:
        """Return the part to which an event's text belongs. Begins it if it is new."""
        place = at.summary_index if part_type == "summary_text" else at.content_index
        key = (part_type, at.output_index, at.item_id, place)
        return self._open_parts.get(key) or self._open_part(part_type, at, place, deltas)

    def _open_part(
        self, part_type: str, at: wire.Event, place: int | None, deltas: list[Delta]
    ) -> Part:
        item = self._text_item(part_type, at, continues=True)
        part = item.part(part_type, place) or item.begin_part(part_type, place, deltas)
        if len(self._open_parts) == _MAX_OPEN:
            self._open_parts.clear()
        self._open_parts[part_type, at.output_index, at.item_id, place] = part
        return part

    def cite(self, event: wire.AnnotationEvent, at: wire.Event, deltas: list[Delta]) -> None:
        """Emit a citation of a text."""
        if event.annotation is None:
            return
        item = self._text_item("output_text", at, continues=False)
        place = at.content_index
        part = item.part("output_text", place) or item.begin_part("output_text", place, deltas)
        item.cite(part, event.annotation_index, event.annotation, deltas)

    def update_part(self, part: wire.Part, at: wire.Event, deltas: list[Delta]) -> None:
        """Emit the text of a part that was not streamed yet."""
        if (part.refusal if part.type == "refusal" else part.text) and part.type in wire.PART_TYPES:
            place = at.summary_index if part.type == "summary_text" else at.content_index
            self._text_item(part.type, at, continues=False).update_part(part, place, deltas)

    def append_arguments(self, at: wire.Event, deltas: list[Delta]) -> None:
        """Append a fragment to the arguments of a call."""
        call = self._open_calls.get((at.output_index, at.item_id))
        if call is None:
            call = self._call(at, continues=True)
            if len(self._open_calls) == _MAX_OPEN:
                self._open_calls.clear()
            self._open_calls[at.output_index, at.item_id] = call
        call.append(at.delta, deltas)

    def update_arguments(
        self, event: wire.ArgumentsDone, at: wire.Event, deltas: list[Delta]
    ) -> None:
        """Read the whole arguments of a call."""
        item = wire.Item(name=event.name, arguments=event.arguments)
        self._call(at, continues=False).update(item, deltas, is_item=False)

    def begin_item(self, item: wire.Item, output_index: int | None, deltas: list[Delta]) -> None:
        """Begin an item."""
        self._close()
        if item.type not in wire.ITEM_TYPES:
            return
        known = self._find(item.type, output_index, item.id, item.call_id)
        if known is not None and (
            known.is_done
            or known.is_other(item)
            or (known.is_added and (known.id, known.output_index) != (item.id, output_index))
        ):
            known = None
        if known is None:
            known = self._find_unnamed(item.type, output_index, item.id)
            if known is None or known.is_added:
                known = self._begin(item.type)
        self._name(known, output_index, item.id, item.call_id)
        known.begin(item, deltas)

    def finish_item(self, item: wire.Item, output_index: int | None, deltas: list[Delta]) -> None:
        """Emit the content of a finished item that was not streamed yet."""
        self._close()
        if item.type not in wire.ITEM_TYPES:
            return
        known = self._find(item.type, output_index, item.id, item.call_id)
        if known is not None and (
            known.is_other(item)
            or (known.is_done and known.id != (item.id or "") and not known.agrees(item))
        ):
            known = None
        if known is None:
            known = self._find_unnamed(item.type, output_index, item.id)
            if known is None or known.is_other(item):
                known = self._begin(item.type)
        self._name(known, output_index, item.id, item.call_id)
        known.update(item, deltas)
        known.is_done = True
        if isinstance(known, TextItem):
            known.is_closed = size_of(item) > 0

    def add_missing(self, output: Sequence[wire.Item], deltas: list[Delta]) -> None:
        """Emit what the final response contains and the stream did not."""
        if len(output) > MAX_PARTS:
            raise UpstreamBroken("the provider's answer has too many items")
        matches: dict[int, _Item] = {}
        has_more_text: dict[str, bool] = {}
        indexes = {id(item): index for index, item in enumerate(output)}

        def is_same(item: wire.Item, known: _Item) -> bool:
            is_at_place = known.output_index == indexes[id(item)] and not known.is_other(item)
            return _has_same_id(item, known) or (is_at_place and known.agrees(item))

        for kind in wire.ITEM_TYPES:
            wholes = [item for item in output if item.type == kind]
            known = [item for item in self._items if item.kind == kind]
            matches |= match(wholes, known, is_same, agree=lambda i, known: known.agrees(i))
            streamed_size = sum(item.size for item in known if isinstance(item, TextItem))
            has_more_text[kind] = sum(map(size_of, wholes)) > streamed_size
        for item in output:
            if item.type in wire.ITEM_TYPES:
                known_item = matches.get(id(item)) or self._begin(item.type)
                if isinstance(known_item, Call):
                    known_item.update(item, deltas)
                else:
                    with_text = has_more_text[item.type] and not known_item.is_closed
                    known_item.update(item, deltas, with_text=with_text)

    def finish(self, deltas: list[Delta], *, response_id: str, is_cut: bool) -> Complete:
        """Finish the calls at the end of the answer. Return the end of an answer that was not cut off.

        `is_cut` means that the answer was cut off. Otherwise, raises UpstreamBroken if a call is incomplete.
        """
        calls = [item for item in self._items if isinstance(item, Call)]
        texts = [item for item in self._items if isinstance(item, TextItem)]
        for ordinal, call in enumerate(calls):
            id_ = generated_id(response_id, ordinal)
            call.finish(deltas, generated_id=id_, is_cut=is_cut)
        if any(call.is_complete for call in calls):
            return Complete(FinishReason.TOOL_CALLS, "completed")
        if any(call.is_invalid for call in calls):
            return Complete(FinishReason.INVALID_TOOL_CALLS, "completed")
        if any(item.is_cut for item in texts):
            return Complete(FinishReason.OTHER, "incomplete")
        explanations = [text for item in texts if (text := item.refusal) is not None]
        if explanations:
            refusal = Refusal(explanation=join_surrogates(explanations[0]))
            return Complete(FinishReason.REFUSAL, "completed", refusal)
        return Complete(FinishReason.STOP, "completed")

    def _text_item(self, part_type: str, at: wire.Event, *, continues: bool) -> TextItem:
        kind = "message" if part_type in OF_MESSAGES else "reasoning"
        return cast("TextItem", self._get(kind, at, continues=continues))

    def _call(self, at: wire.Event, *, continues: bool) -> Call:
        return cast("Call", self._get("function_call", at, continues=continues))

    def _get(self, kind: str, at: wire.Event, *, continues: bool) -> _Item:
        """Return the item of an event. An event that `continues` an item never belongs to a finished item."""
        item = self._find(kind, at.output_index, at.item_id)
        if item is not None and continues and item.is_done and item.id != (at.item_id or ""):
            item = None
        item = item or self._find_unnamed(kind, at.output_index, at.item_id) or self._begin(kind)
        self._name(item, at.output_index, at.item_id)
        return item

    def _find(
        self, kind: str, output_index: int | None, item_id: str | None, call_id: str | None = None
    ) -> _Item | None:
        by_id = self._by_id.get((kind, item_id)) if item_id else None
        if call_id and kind == "function_call":
            by_id = self._by_call_id.get(call_id, by_id)
        by_index = None if output_index is None else self._by_index.get((kind, output_index))
        if by_id is None or by_id is by_index:
            return by_index
        has_place = output_index is None or by_id.output_index in (None, output_index)
        if has_place:
            return by_id
        # The id and the index lead to different items: one of them is not unique.
        return by_index if by_index is not None or by_id.is_done else by_id

    def _find_unnamed(
        self, kind: str, output_index: int | None, item_id: str | None
    ) -> _Item | None:
        """Return the latest item of a kind if it is open and may have this id and this index."""
        item = self._latest.get(kind)
        if item is None or item.is_done:
            return None
        is_possible = (not item_id or not item.id) and (
            output_index is None or item.output_index is None
        )
        return item if is_possible else None

    def _begin(self, kind: str) -> _Item:
        self._blocks.count_item()
        item: _Item
        item = Call(self._blocks) if kind == "function_call" else TextItem(kind, self._blocks)
        self._items.append(item)
        self._latest[kind] = item
        return item

    def _close(self) -> None:
        self._open_parts.clear()
        self._open_calls.clear()

    def _name(
        self, item: _Item, output_index: int | None, item_id: str | None, call_id: str | None = None
    ) -> None:
        """Record the id and the index of an item."""
        if item_id and not item.id:
            self._blocks.count_chars(len(item_id))
            item.id = item_id
            self._by_id[item.kind, item_id] = item
            self._close()
        if output_index is not None and item.output_index is None:
            item.output_index = output_index
        if (
            item.output_index is not None
            and self._by_index.get((item.kind, item.output_index)) is not item
        ):
            self._by_index[item.kind, item.output_index] = item
            self._close()
        if call_id and isinstance(item, Call) and not item.call_id:
            self._by_call_id[call_id] = item


def _has_same_id(item: wire.Item, known: _Item) -> bool:
    if isinstance(known, Call) and item.call_id and known.call_id == item.call_id:
        return True
    return bool(item.id) and known.id == item.id
