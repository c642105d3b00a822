"""The wire format of Anthropic's stream of events, as far as it is read.

https://platform.claude.com/docs/en/api/messages and the types of the `anthropic` SDK.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from ...errors import (
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
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

_ERRORS: dict[str, tuple[type[UpstreamError], str]] = {
    "invalid_request_error": (UpstreamRejected, "refused the request"),
    "request_too_large": (UpstreamRejected, "refused the request as too large"),
    "not_found_error": (UpstreamRejected, "did not find a resource named in the request"),
    "authentication_error": (UpstreamAuth, "refuses this server's key"),
    "permission_error": (UpstreamAuth, "refuses this server's key"),
    "billing_error": (UpstreamAuth, "refuses this server's key because of a billing problem"),
    "rate_limit_error": (UpstreamRateLimited, "is at its rate limit"),
    "overloaded_error": (UpstreamUnavailable, "is overloaded"),
    "timeout_error": (UpstreamUnavailable, "timed out"),
    "api_error": (UpstreamUnavailable, "failed"),
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""An error type that is passed on to the caller. Anything else may be prose."""
_TRANSIENT = (UpstreamRateLimited, UpstreamUnavailable)
RETRY_AFTER_S = 1.0
"""Passed on with transient errors, because an error event names no delay."""

MAX_PROVIDER_TEXT_CHARS = 2000
"""Maximum length of a provider's text in the log."""

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


class Error(msgspec.Struct, gc=False):
    type: str = ""


class Event(msgspec.Struct, gc=False):
    """An event of any type. `type` determines which other fields are set."""

    type: str
    index: int = 0
    delta: Delta | None = None
    content_block: Block | None = None
    message: Message | None = None
    usage: Usage | None = None
    error: Error | None = None


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


def error_of(event: Event, payload: bytes) -> UpstreamError:
    """Return the error that an error event reports."""
    error_type = event.error.type if event.error is not None else ""
    kind, what = _ERRORS.get(error_type, (UpstreamUnavailable, "failed"))
    return kind(
        f"the provider {what}",
        error_type=error_type if _NAME.fullmatch(error_type) else "",
        provider_text=excerpt(payload),
        retry_after_s=RETRY_AFTER_S if issubclass(kind, _TRANSIENT) else None,
    )


def excerpt(payload: bytes) -> str:
    """Return the beginning of a provider's text, for the log."""
    return payload[:MAX_PROVIDER_TEXT_CHARS].decode(errors="replace")
