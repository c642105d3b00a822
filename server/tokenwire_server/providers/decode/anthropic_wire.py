"""The wire format of Anthropic's stream of events, as far as it is read.

https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` SDK.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ...events import FinishReason, Refusal
from .base import MAX_NAME_CHARS
from .json import join_surrogates, loads

FINISH_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "max_tokens": FinishReason.MAX_TOKENS,
    "model_context_window_exceeded": FinishReason.CONTEXT_FULL,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.REFUSAL,
    "pause_turn": FinishReason.PAUSED,
    "compaction": FinishReason.PAUSED,
    # Servers that pass on another API's reason
    "stop": FinishReason.STOP,
    "end": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "complete": FinishReason.STOP,
    "completed": FinishReason.STOP,
    "length": FinishReason.MAX_TOKENS,
    "max_length": FinishReason.MAX_TOKENS,
    "max_new_tokens": FinishReason.MAX_TOKENS,
    "max_output_tokens": FinishReason.MAX_TOKENS,
    "model_length": FinishReason.CONTEXT_FULL,  # Mistral
    "context_length_exceeded": FinishReason.CONTEXT_FULL,
    "tool_call": FinishReason.TOOL_CALLS,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    "content_filtered": FinishReason.CONTENT_FILTER,  # Bedrock
    "guardrail_intervened": FinishReason.CONTENT_FILTER,  # Bedrock
    "sensitive": FinishReason.CONTENT_FILTER,  # GLM
    "safety": FinishReason.CONTENT_FILTER,  # this and the rest: Gemini
    "recitation": FinishReason.CONTENT_FILTER,
    "blocklist": FinishReason.CONTENT_FILTER,
    "prohibited_content": FinishReason.CONTENT_FILTER,
    "spii": FinishReason.CONTENT_FILTER,
}
"""Keys are in lower case."""
BROKEN_REASONS = frozenset(
    {
        "error",
        "abort",  # vLLM, SGLang
        "network_error",  # GLM
        "insufficient_system_resource",  # DeepSeek
        "malformed_function_call",  # Gemini
    }
)
"""Stop reasons of answers that failed half-way."""
MAX_EXPLANATION_CHARS = 2000
"""Maximum length of the explanation of a refusal."""

Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class StopDetails(msgspec.Struct, gc=False):
    """Why the provider refused."""

    category: str | None = None
    explanation: str | None = None

    def refusal(self) -> Refusal | None:
        """Return the account of the refusal, or None if it is empty."""
        if not self.category and not self.explanation:
            return None
        return Refusal(
            join_surrogates((self.category or "")[:MAX_NAME_CHARS]),
            join_surrogates((self.explanation or "")[:MAX_EXPLANATION_CHARS]),
        )


class Delta(msgspec.Struct, gc=False):
    """A delta of a block (`content_block_delta`) or of the message (`message_delta`)."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


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
