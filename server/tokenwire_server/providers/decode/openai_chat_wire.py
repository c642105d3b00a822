"""The wire format of the Chat Completions stream: the fields that are read, and its errors.

https://platform.openai.com/docs/api-reference/chat-streaming. Fields of other servers are marked.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ...errors import (
    UpstreamAuth,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from ...events import FinishReason
from ...events import Usage as UsageFigures
from .json import loads

MAX_PROVIDER_TEXT_CHARS = 2000
RETRY_AFTER_S = 1.0
"""Passed on with transient errors, because an error in a stream names no delay."""
MAX_TOKENS = 2**53


class Part(msgspec.Struct, gc=False):
    """Content in parts, as Mistral sends it: {"type": "thinking", "thinking": [{"type": "text", ...}]}."""

    type: str = ""
    text: str | None = None
    thinking: str | list[Part] | None = None


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct, gc=False):
    content: str | list[Part] | None = None
    reasoning_content: str | None = None
    """DeepSeek, Qwen, vLLM before 0.12, SGLang."""
    reasoning: str | None = None
    """OpenRouter, Groq, vLLM. A server that sends both sends the same text twice."""
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: Delta | None = None
    finish_reason: str | msgspec.UnsetType | None = msgspec.UNSET
    stop_reason: int | str | None = None
    """vLLM: the stop sequence that was generated, or the id of the stop token."""


class InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    """OpenRouter."""


class OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek."""


class XGroq(msgspec.Struct, gc=False):
    usage: Usage | None = None
    error: str | None = None
    """Why Groq stopped the stream early."""


class Chunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    x_groq: XGroq | None = None
    error: Any = None


CHUNK = msgspec.json.Decoder(Chunk)
_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.MAX_TOKENS,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    "model_length": FinishReason.MAX_TOKENS,  # Mistral: the context window is full
    "max_tokens": FinishReason.MAX_TOKENS,  # the last four: servers that pass on another API's reason
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "refusal": FinishReason.REFUSAL,
    "safety": FinishReason.CONTENT_FILTER,
}
"""Keys are in lower case. Text after a colon is a detail (Gemini: "content_filter: RECITATION")."""
BROKEN_REASONS = frozenset(
    {
        "error",  # OpenRouter, Mistral, vLLM
        "abort",  # vLLM, SGLang: the server aborted the request
        "insufficient_system_resource",  # DeepSeek
        "function_call_filter",  # Gemini: the model wrote an invalid call
    }
)
"""Finish reasons of incomplete answers."""

_STATUS_BY_NAME = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "badrequesterror": 400,  # vLLM
    "tool_use_failed": 400,  # Groq: the model wrote an invalid call
    "validation": 422,  # Text Generation Inference
    "model_not_found": 404,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "tokens": 429,  # "tokens" and "requests" are OpenAI's types of rate limits
    "requests": 429,
    "insufficient_quota": 429,
    "resource_exhausted": 429,
}
"""HTTP status for an error's code, type or status in lower case. Other errors are failures of the server."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def usage_figures(usage: Usage) -> UsageFigures | None:
    """Return the figures in Tokenwire's convention, or None if they are missing or invalid.

    Some servers (xAI, Gemini) count reasoning in `total_tokens` but not in `completion_tokens`. The
    difference counts as output.
    """
    details = usage.prompt_tokens_details or InputDetails()
    reasoning = (usage.completion_tokens_details or OutputDetails()).reasoning_tokens
    cache_read = details.cached_tokens
    if cache_read is None:
        cache_read = usage.prompt_cache_hit_tokens
    input_ = usage.prompt_tokens or 0
    output = usage.completion_tokens or 0
    uncounted = (usage.total_tokens or 0) - input_ - output
    if uncounted > 0 and usage.prompt_tokens is not None and reasoning in (None, uncounted):
        output += uncounted
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return None
    counts = (input_, output, reasoning, cache_read, details.cache_write_tokens)
    if not all(count is None or 0 <= count <= MAX_TOKENS for count in counts):
        return None
    return UsageFigures(*counts)


def is_error(payload: bytes) -> bool:
    """Return whether an event is an error in the format of older vLLM servers."""
    value = _object(payload)
    return value.get("object") == "error"


def stream_error(payload: bytes) -> UpstreamError:
    """Return the error that an event reports, in any of the servers' formats.

    {"error": {"message", "type", "code", "param"}}       OpenAI, Groq, vLLM, OpenRouter, Gemini
    {"error": "...", "error_type": "..."}                 Text Generation Inference
    {"object": "error", "message", "type", "code"}        older vLLM
    """
    event = _object(payload)
    detail = event.get("error")
    error: dict[str, Any] = detail if isinstance(detail, dict) else event
    names = [error.get(key) for key in ("code", "type", "status", "error_type")]
    status = next(filter(None, map(_status, names)), None)
    facts: dict[str, Any] = {
        "status": status,
        "error_type": next(filter(None, map(_name, [names[1], names[0], *names[2:]])), ""),
        "field": _name(error.get("param")),
        "provider_text": repr(payload[:MAX_PROVIDER_TEXT_CHARS]),
    }
    if status in (401, 403):
        return UpstreamAuth(
            "the provider refuses this server's key; the operator must fix this", **facts
        )
    if status == 429:
        return UpstreamRateLimited(
            "the provider is at its rate limit", retry_after_s=RETRY_AFTER_S, **facts
        )
    if status is not None and 400 <= status < 500 and status not in (408, 409, 425):
        return UpstreamRejected("the provider refused the request", **facts)
    return UpstreamUnavailable(
        "the provider failed while it answered", retry_after_s=RETRY_AFTER_S, **facts
    )


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = loads(_ANYTHING, payload)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _status(name: object) -> int | None:
    """Return the HTTP status for an error's code or type."""
    if isinstance(name, str):
        if name.lower() in _STATUS_BY_NAME:
            return _STATUS_BY_NAME[name.lower()]
        if not re.fullmatch(r"[45]\d\d", name, re.ASCII):
            return None
        return int(name)
    return name if isinstance(name, int) and 400 <= name < 600 else None


def _name(value: object) -> str:
    """Return a provider's error type or field name, or "" if the value looks like prose."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else ""
