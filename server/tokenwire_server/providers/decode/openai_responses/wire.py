"""The wire format of the OpenAI Responses stream, as far as it is read.

Source: the types of the official SDK, `openai.types.responses`. Items are kept raw until their type is
known, because items of unknown types may have the same fields with other types.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from .. import lenient
from ..json import loads
from ..lenient import JsonText, Prose

_T = TypeVar("_T")
PART_TYPES = ("output_text", "refusal", "summary_text", "reasoning_text")
ITEM_TYPES = ("message", "reasoning", "function_call")
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Index = Annotated[int, msgspec.Meta(ge=0)]
_Offset = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class TopLogprob(msgspec.Struct, gc=False):
    token: str = ""
    logprob: float | None = None
    bytes: list[_Byte] | None = None


class Logprob(TopLogprob, gc=False):
    top_logprobs: list[TopLogprob] | None = None


class Event(msgspec.Struct, gc=False):
    """The fields of an event that carries a token. Events of other types are decoded again by type."""

    type: str = ""
    delta: Prose = ""
    output_index: _Index | None = None
    item_id: str | None = None
    content_index: _Index | None = None
    summary_index: _Index | None = None
    logprobs: list[Logprob] | None = None


class ArgumentsDelta(Event, gc=False):
    """An event with a fragment of arguments, which compatible servers send as an object."""

    delta: JsonText = ""


class Typed(msgspec.Struct, gc=False):
    type: str = ""


class Annotation(msgspec.Struct, gc=False):
    """A source of a text. `index` of a citation of a file is the position after which it belongs."""

    type: str = ""
    url: str | None = None
    title: str | None = None
    filename: str | None = None
    file_id: str | None = None
    index: _Offset | None = None
    start_index: _Offset | None = None
    end_index: _Offset | None = None


class AnnotationEvent(msgspec.Struct, gc=False):
    annotation: Annotation | None = None
    annotation_index: _Index | None = None


class Part(msgspec.Struct, gc=False):
    """A part of a message or of reasoning: output_text, refusal, summary_text or reasoning_text."""

    type: str = ""
    text: Prose | None = None
    refusal: Prose | None = None
    annotations: list[Annotation] | None = None
    logprobs: list[Logprob] | None = None


class PartEvent(msgspec.Struct, gc=False):
    """An event with the whole text of a part so far: in its own fields, or in `part`."""

    text: Prose | None = None
    refusal: Prose | None = None
    logprobs: list[Logprob] | None = None
    part: Part | None = None


class ArgumentsDone(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: JsonText | None = None


class Item(msgspec.Struct, gc=False):
    """A message, a reasoning item, or a function call."""

    type: str = ""
    id: str | None = None
    status: str | None = None
    content: list[Part] | Prose | None = None
    summary: list[Part] | Prose | None = None
    encrypted_content: str | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: JsonText | None = None


def parts_of(item: Item) -> list[Part]:
    """Return the parts of an item's content. A text in their place is one part."""
    of_text = "output_text" if item.type == "message" else "reasoning_text"
    return [Part(of_text, item.content)] if isinstance(item.content, str) else item.content or []


def summary_of(item: Item) -> list[Part]:
    """Return the parts of an item's summary. A text in their place is one part."""
    if isinstance(item.summary, str):
        return [Part("summary_text", item.summary)]
    return item.summary or []


class ItemEvent(msgspec.Struct, gc=False):
    item: msgspec.Raw = msgspec.Raw(b"{}")


class Action(msgspec.Struct, gc=False):
    type: str = ""


class ServerToolCall(msgspec.Struct, gc=False):
    """A call of a tool that the provider runs itself."""

    type: str = ""
    id: str | None = None
    status: str | None = None
    action: Action | None = None


class InputDetails(msgspec.Struct, gc=False):
    cached_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None


class OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Tokens | None = None


class ResponseUsage(msgspec.Struct, gc=False):
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    total_tokens: _Tokens | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class WebSearches(msgspec.Struct, gc=False):
    num_requests: _Tokens | None = None


class ToolUsage(msgspec.Struct, gc=False):
    """What the provider bills for its tools."""

    web_search: WebSearches | None = None


class Error(msgspec.Struct, gc=False):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None
    param: str | None = None


class IncompleteDetails(msgspec.Struct, gc=False):
    reason: str | None = None


class ResponseHead(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None


class Response(ResponseHead, gc=False):
    status: str | None = None
    incomplete_details: IncompleteDetails | str | None = None
    output: list[msgspec.Raw] | None = None
    usage: ResponseUsage | None = None
    tool_usage: ToolUsage | None = None
    service_tier: str | None = None
    error: Error | str | None = None


def details_of(response: Response) -> IncompleteDetails | None:
    """Return why a response is incomplete. A text in place of the details is the reason."""
    details = response.incomplete_details
    return IncompleteDetails(details) if isinstance(details, str) else details


class BeginEvent(msgspec.Struct, gc=False):
    response: ResponseHead | None = None


class EndEvent(msgspec.Struct, gc=False):
    response: Response | None = None


class Reader:
    """Reads the events of one answer. A field of another type than the format's costs only that field."""

    __slots__ = ("unreadable",)

    def __init__(self) -> None:
        self.unreadable = ""
        """The first fields that could not be read: their paths and their types of JSON."""

    def read(self, decoder: msgspec.json.Decoder[_T], data: bytes, path: str = "") -> _T:
        """Decode an event, or the object at a path in it. Raises msgspec.DecodeError if it is no object."""
        try:
            return loads(decoder, data)
        except msgspec.ValidationError:
            value, unreadable = lenient.read(decoder, data)
        if unreadable and not self.unreadable:
            self.unreadable = path + unreadable
        return value

    def read_item(self, item: msgspec.Raw) -> Item:
        """Read an item of the types that `Item` has, and only the type of any other item."""
        try:
            kind = self.read(TYPED, bytes(item), "item.").type
            return self.read(_ITEM, bytes(item), "item.") if kind in ITEM_TYPES else Item(type=kind)
        except msgspec.DecodeError:
            self.unreadable = self.unreadable or "item"
            return Item()

    def read_server_tool_call(self, item: msgspec.Raw) -> ServerToolCall:
        try:
            return self.read(_SERVER_TOOL_CALL, bytes(item), "item.")
        except msgspec.DecodeError:
            return ServerToolCall()


EVENT = msgspec.json.Decoder(Event)
ARGUMENTS_DELTA = msgspec.json.Decoder(ArgumentsDelta)
TYPED = msgspec.json.Decoder(Typed)
PART_EVENT = msgspec.json.Decoder(PartEvent)
ANNOTATION_EVENT = msgspec.json.Decoder(AnnotationEvent)
ARGUMENTS_DONE = msgspec.json.Decoder(ArgumentsDone)
ITEM_EVENT = msgspec.json.Decoder(ItemEvent)
BEGIN = msgspec.json.Decoder(BeginEvent)
END = msgspec.json.Decoder(EndEvent)
_ITEM = msgspec.json.Decoder(Item)
_SERVER_TOOL_CALL = msgspec.json.Decoder(ServerToolCall)
