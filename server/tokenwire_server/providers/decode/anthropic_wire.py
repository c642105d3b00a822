"""The wire format of Anthropic's stream of events, as far as it is read.

https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` SDK.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ...events import FinishReason
from .json import loads

STOP_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "max_tokens": FinishReason.MAX_TOKENS,
    "model_context_window_exceeded": FinishReason.MAX_TOKENS,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.REFUSAL,
    "pause_turn": FinishReason.PAUSED,
}

Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Delta(msgspec.Struct, gc=False):
    """A delta of a block (`content_block_delta`) or of the message (`message_delta`)."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class Block(msgspec.Struct, gc=False):
    type: str = ""
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: Tokens | None = None


class Usage(msgspec.Struct, gc=False):
    """Cumulative token counts. `input_tokens` excludes tokens read from and written to the cache."""

    input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None
    cache_read_input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    output_tokens_details: OutputDetails | None = None


class Message(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    usage: Usage | None = None


class Event(msgspec.Struct, gc=False):
    """An event of any type. `type` determines which other fields are set."""

    type: str
    index: int = 0
    delta: Delta | None = None
    content_block: Block | None = None
    message: Message | None = None
    usage: Usage | None = None


class _Typed(msgspec.Struct, gc=False):
    type: str = ""


class _Content(msgspec.Struct, gc=False):
    """The type of the content in an event."""

    index: int = 0
    delta: _Typed | None = None
    content_block: _Typed | None = None


_KNOWN_EVENTS = frozenset(
    {"message_start", "message_delta", "message_stop"}
    | {"content_block_start", "content_block_delta", "content_block_stop"}
)
_KNOWN_BLOCKS = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
_KNOWN_DELTAS = frozenset({"text_delta", "thinking_delta", "signature_delta", "input_json_delta"})

_events = msgspec.json.Decoder(Event)
_types = msgspec.json.Decoder(_Typed)
_contents = msgspec.json.Decoder(_Content)


def read_event(payload: bytes) -> Event:
    """Decode one event. Raises msgspec.DecodeError if it is not JSON, or its fields do not fit its type.

    Of an event, delta or block of an unknown type, only the type is decoded, because its fields may have
    other types than those defined here.
    """
    try:
        return loads(_events, payload)
    except msgspec.ValidationError:
        type_ = loads(_types, payload).type
        if type_ and type_ not in _KNOWN_EVENTS:
            return Event(type=type_)
        content = loads(_contents, payload)
        delta, block = content.delta, content.content_block
        if type_ == "content_block_delta" and delta is not None and delta.type not in _KNOWN_DELTAS:
            return Event(type_, content.index, delta=Delta(delta.type))
        if type_ == "content_block_start" and block is not None and block.type not in _KNOWN_BLOCKS:
            return Event(type_, content.index, content_block=Block(block.type))
        raise
