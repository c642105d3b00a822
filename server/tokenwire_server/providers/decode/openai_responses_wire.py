"""The wire format of the OpenAI Responses stream, as far as it is read.

Source: the types of the official SDK, `openai.types.responses`. Items are kept raw until their type is
known, because items of unknown types may have the same fields with other types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from .json import loads

_T = TypeVar("_T")
PART_TYPES = ("output_text", "refusal", "summary_text", "reasoning_text")
ITEM_TYPES = ("message", "reasoning", "function_call")
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Event(msgspec.Struct, gc=False):
    """The fields of an event that carries a token. Events of other types are decoded again by type."""

    type: str = ""
    delta: str = ""
    output_index: int | None = None
    item_id: str | None = None
    content_index: int | None = None
    summary_index: int | None = None


class Typed(msgspec.Struct, gc=False):
    type: str = ""


class Part(msgspec.Struct, gc=False):
    """A part of a message or of reasoning: output_text, refusal, summary_text or reasoning_text."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


class PartEvent(msgspec.Struct, gc=False):
    """An event with the whole text of a part so far: in its own fields, or in `part`."""

    text: str | None = None
    refusal: str | None = None
    part: Part | None = None


class ArgumentsDone(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class Item(msgspec.Struct, gc=False):
    """A message, a reasoning item, or a function call."""

    type: str = ""
    id: str | None = None
    status: str | None = None
    content: list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class ItemEvent(msgspec.Struct, gc=False):
    item: msgspec.Raw


class InputDetails(msgspec.Struct, gc=False):
    cached_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None


class OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Tokens | None = None


class ResponseUsage(msgspec.Struct, gc=False):
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


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
    incomplete_details: IncompleteDetails | None = None
    output: list[msgspec.Raw] | None = None
    usage: ResponseUsage | None = None
    error: Error | None = None


class BeginEvent(msgspec.Struct, gc=False):
    response: ResponseHead | None = None


class EndEvent(msgspec.Struct, gc=False):
    response: Response | None = None


def _reader(kind: type[_T]) -> Callable[[bytes | msgspec.Raw], _T]:
    decoder = msgspec.json.Decoder(kind)
    return lambda data: loads(decoder, bytes(data))


def read_item(data: msgspec.Raw) -> Item:
    """Read an item of the types that `Item` has, and only the type of other items."""
    kind = read_typed(data).type
    return _read_item(data) if kind in ITEM_TYPES else Item(type=kind)


# Each raises msgspec.DecodeError or RecursionError for invalid data.
EVENT = msgspec.json.Decoder(Event)
read_typed = _reader(Typed)
read_part_event = _reader(PartEvent)
read_item_event = _reader(ItemEvent)
read_arguments_done = _reader(ArgumentsDone)
_read_item = _reader(Item)
read_begin = _reader(BeginEvent)
read_end = _reader(EndEvent)
