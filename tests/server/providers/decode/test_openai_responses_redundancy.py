"""Answers in the Responses format of which a compatible server sends only some of the redundant events."""

import json
from itertools import count

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.events import FinishReason, ReasoningDelta, TextDelta, ToolCall, ToolCallDelta
from tokenwire_server.providers.decode.openai_responses.decoder import OpenAIResponsesDecoder


class Item(msgspec.Struct, frozen=True):
    """An item, and which of its events are sent. At least one of them has the whole content."""

    kind: str
    parts: tuple[str, ...]
    """Texts of the parts, or the arguments of a call."""
    has_added: bool
    has_deltas: bool
    has_part_added: bool
    has_text_done: bool
    has_part_done: bool
    has_item_done: bool
    is_blank_when_done: bool = False
    """Whether the finished item and the final response have no arguments, although the call has."""


NAMINGS = ["full", "ids", "indexes", "neither", "one index", "new ids"]

texts = st.text("ab\n\N{PEAR}", min_size=1, max_size=12)
arguments = st.dictionaries(st.sampled_from("xy"), st.integers() | texts, max_size=2).map(
    lambda value: json.dumps(value, ensure_ascii=False)
)
flags = {name: st.booleans() for name in Item.__struct_fields__ if name.startswith("has_")}


def has_content(item: Item) -> bool:
    """Return whether the events before the final response have all of the item."""
    if item.kind != "function_call":
        carriers = (item.has_deltas, item.has_text_done, item.has_part_done, item.has_item_done)
        return any(carriers)
    if not (item.has_added or item.has_item_done):
        return False  # without a name
    return item.has_deltas or item.has_text_done or (item.has_item_done and has_arguments(item))


def has_arguments(item: Item) -> bool:
    return item.has_deltas or item.has_text_done or not item.is_blank_when_done


items = st.one_of(
    st.builds(
        Item,
        kind=st.sampled_from(["message", "reasoning"]),
        parts=st.lists(texts, min_size=1, max_size=2).map(tuple),
        **flags,
    ),
    st.builds(
        Item,
        kind=st.just("function_call"),
        parts=arguments.map(lambda text: (text,)),
        is_blank_when_done=st.booleans(),
        **flags,
    ),
)
answers = st.one_of(
    st.tuples(st.lists(items.filter(has_content), min_size=1, max_size=4), st.just(False)),
    st.tuples(st.lists(items.filter(has_arguments), min_size=1, max_size=4), st.just(True)),
)
"""Items, and whether the final response has them."""


class Server:
    """Writes the events of an answer, with its own idea of ids and indexes."""

    def __init__(self, naming: str, *, resets_content_index: bool, blank: str) -> None:
        self.naming = naming
        self.resets_content_index = resets_content_index
        self.blank = blank
        self.frames: list[bytes] = []
        self._new_ids = count()
        self._content_index = 0

    def send(self, kind: str, at: int, **fields) -> None:
        if self.naming in ("full", "indexes", "new ids", "one index"):
            fields["output_index"] = 0 if self.naming == "one index" else at
        if "item" not in fields and (id_ := self.id_of(at)):
            fields["item_id"] = id_
        body = json.dumps({"type": kind, **fields})
        self.frames.append(f"data: {body}\n\n".encode())

    def id_of(self, at: int) -> str | None:
        match self.naming:
            case "full" | "ids" | "one index":
                return f"item_{at}"
            case "new ids":
                return f"item_{next(self._new_ids)}"
            case _:
                return None

    def whole(self, item: Item, at: int, *, is_empty: bool = False) -> dict:
        whole = {"type": item.kind, "id": self.id_of(at), "status": "completed"}
        if item.kind == "function_call":
            text = self.blank if item.is_blank_when_done else item.parts[0]
            named = {"call_id": f"call_{at}", "name": "f"}
            return {**whole, **named, "arguments": "" if is_empty else text}
        type_ = "output_text" if item.kind == "message" else "reasoning_text"
        parts = [] if is_empty else [{"type": type_, "text": text} for text in item.parts]
        return {**whole, "content": parts}

    def send_item(self, item: Item, at: int) -> None:
        if item.has_added or self.naming in (
            "neither",
            "one index",
        ):  # else nothing separates items
            self.send("response.output_item.added", at, item=self.whole(item, at, is_empty=True))
        if item.kind == "function_call":
            self.send_arguments(item, at)
        else:
            self.send_parts(item, at)
        if item.has_item_done:
            self.send("response.output_item.done", at, item=self.whole(item, at))

    def send_arguments(self, item: Item, at: int) -> None:
        name = "response.function_call_arguments"
        if item.has_deltas:
            for piece in pieces_of(item.parts[0]):
                self.send(f"{name}.delta", at, delta=piece)
        if item.has_text_done:
            self.send(f"{name}.done", at, arguments=item.parts[0])

    def send_parts(self, item: Item, at: int) -> None:
        type_ = "output_text" if item.kind == "message" else "reasoning_text"
        for place, text in enumerate(item.parts):
            index = place if self.resets_content_index else self._content_index
            self._content_index += 1
            whole = {"content_index": index, "part": {"type": type_, "text": text}}
            if item.has_part_added:
                empty = {"type": type_, "text": ""}
                self.send("response.content_part.added", at, content_index=index, part=empty)
            if item.has_deltas:
                for piece in pieces_of(text):
                    self.send(f"response.{type_}.delta", at, content_index=index, delta=piece)
            if item.has_text_done:
                self.send(f"response.{type_}.done", at, content_index=index, text=text)
            if item.has_part_done:
                self.send("response.content_part.done", at, **whole)


def pieces_of(text: str) -> list[str]:
    return [text[:1], text[1:4], text[4:]]


@settings(max_examples=scaled(600))
@given(
    answers,
    st.sampled_from(NAMINGS),
    st.booleans(),
    st.sampled_from(["", "{}", " ", "null"]),
)
def test_content_is_neither_lost_nor_doubled_whichever_events_carry_it(
    answer, naming, resets_content_index, blank
):
    items, has_final = answer
    server = Server(naming, resets_content_index=resets_content_index, blank=blank)
    for at, item in enumerate(items):
        server.send_item(item, at)
    output = [server.whole(item, at) for at, item in enumerate(items) if has_final]
    server.send("response.completed", 0, item=None, response={"id": "r", "output": output})

    decoder = OpenAIResponsesDecoder()
    deltas = [delta for frame in server.frames for delta in decoder.feed(frame)]

    blocks: dict[int, str] = {}
    for delta in deltas:
        if isinstance(delta, TextDelta | ReasoningDelta):
            blocks[delta.index] = blocks.get(delta.index, "") + delta.text
        elif isinstance(delta, ToolCallDelta):
            blocks[delta.index] = blocks.get(delta.index, "") + delta.arguments_json
    calls = [delta for delta in deltas if isinstance(delta, ToolCall)]
    expected_calls = [(n, i.parts[0]) for n, i in enumerate(items) if i.kind == "function_call"]
    assert sorted((call.id, call.arguments_json) for call in calls) == [
        (f"call_{at}", text) for at, text in expected_calls
    ]
    assert all(
        blocks.pop(call.index, "") in (call.arguments_json, "") or call.arguments_json == "{}"
        for call in calls
    )
    assert sorted(blocks.values()) == sorted(
        text
        for item in items
        for text in (item.parts if item.kind == "message" else ("\n\n".join(item.parts),))
        if item.kind != "function_call"
    )
    reason = FinishReason.TOOL_CALLS if expected_calls else FinishReason.STOP
    assert decoder.end.reason == reason
