"""The wire format of the Chat Completions stream: the fields that are read.

https://platform.openai.com/docs/api-reference/chat-streaming. Fields of other servers are marked.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...events import FinishReason
from ...events import Usage as UsageFigures
from .lenient import ExactText, JsonText, Prose

MAX_TOKENS = 2**53


class Part(msgspec.Struct, gc=False):
    """Content in parts, as Mistral sends it: {"type": "thinking", "thinking": [{"type": "text", ...}]}."""

    type: str = ""
    text: str | None = None
    thinking: Prose | list[Part] | None = None


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: JsonText | None = None


class ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct, gc=False):
    content: str | list[Part] | None = None
    reasoning_content: Prose | None = None
    """DeepSeek, Qwen, vLLM before 0.12, SGLang."""
    reasoning: Prose | None = None
    """OpenRouter, Groq, vLLM. A server that sends both sends the same text twice."""
    refusal: ExactText | None = None
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
