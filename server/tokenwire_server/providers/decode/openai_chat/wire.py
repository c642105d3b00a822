"""The wire format of the Chat Completions stream: the fields that are read.

https://platform.openai.com/docs/api-reference/chat-streaming. Fields of other servers are marked.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..lenient import ExactText, JsonText, Prose
from .extras import Annotation, ChoiceLogprobs
from .usage import Usage


class Part(msgspec.Struct, gc=False):
    """Content in parts, as Mistral sends it: {"type": "thinking", "thinking": [{"type": "text", ...}]}."""

    type: str = ""
    text: str | None = None
    refusal: ExactText | None = None
    thinking: Prose | list[Part] | None = None
    summary: Prose | list[Part] | None = None
    """Databricks, in a part of type "reasoning"."""
    reference_ids: list[int | str] | None = None
    """Mistral, in a part of type "reference"."""


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: JsonText | None = None


class ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: Function | None = None
    extra_content: dict[str, Any] | None = None
    """Gemini: its signature of the thoughts before the call."""


class Delta(msgspec.Struct, gc=False):
    content: str | list[Part] | None = None
    reasoning_content: Prose | None = None
    """DeepSeek, Qwen, vLLM before 0.12, SGLang."""
    reasoning: Prose | None = None
    """OpenRouter, Groq, vLLM. A server that sends both sends the same text twice."""
    reasoning_details: list[Any] | None = None
    """OpenRouter, MiniMax. A server that also sends `reasoning` sends the same text twice."""
    refusal: ExactText | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    """OpenAI's older form of `tool_calls`, for one call."""
    annotations: list[Annotation] | None = None
    extra_content: dict[str, Any] | None = None
    """Gemini: its signature of the thoughts before the text."""


class Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: Delta | None = None
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Prose | bool | msgspec.UnsetType | None = msgspec.UNSET
    message: Delta | None = None
    """The whole answer, from servers that do not stream it."""
    stop_reason: int | str | None = None
    """vLLM: the stop sequence that was generated, or the id of the stop token."""
    native_finish_reason: str | None = None
    """OpenRouter: the finish reason in the provider's own words."""
    error: Any = None
    """OpenRouter: why the provider failed."""
    usage: Usage | None = None
    """Moonshot."""


class XGroq(msgspec.Struct, gc=False):
    usage: Usage | None = None
    error: str | None = None
    """Why Groq stopped the stream early."""


class Chunk(msgspec.Struct, gc=False):
    """An event. As in `Choice`, the fields have OpenAI's order, in which they are found fastest."""

    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    x_groq: XGroq | None = None
    error: Any = None


CHUNK = msgspec.json.Decoder(Chunk)


def text_alone(payload: bytes) -> str:
    """Return the text of an event of the first choice. Empty if it has none, or also something else."""
    try:
        chunk = CHUNK.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    choice = chunk.choices[0] if chunk.choices else Choice()
    text = None if choice.delta is None else choice.delta.content
    if choice.index or not text or not isinstance(text, str) or choice.finish_reason:
        return ""
    only_text = Chunk(
        id=chunk.id,
        model=chunk.model,
        service_tier=chunk.service_tier,
        choices=[
            Choice(
                index=choice.index,
                delta=Delta(content=text),
                finish_reason=choice.finish_reason,
            )
        ],
    )
    return text if chunk == only_text else ""
