"""Recognition of errors for requests that do not fit into a model's context window.

Few providers have a code for it. The others are recognized by their texts, which also have the figures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .body import ErrorBody

_NAMES = frozenset(
    {
        "context_length_exceeded",  # OpenAI, Groq, Azure
        "exceed_context_size_error",  # llama.cpp
        "contextwindowexceedederror",  # LiteLLM
        "context_window_exceeded",
        "model_context_window_exceeded",
        "prompt_too_long",
        "tokens_limit_reached",  # GitHub
    }
)
_TEXT = re.compile(
    r"maximum context length"  # OpenAI, vLLM, OpenRouter, Mistral, Fireworks
    r"|context length is only"  # vLLM
    r"|longer than the (?:maximum model length|model's context length)"  # vLLM, SGLang
    r"|exceeds the maximum allowed length"  # SGLang
    r"|prompt (?:is )?too long"  # Anthropic
    r"|exceeds? (?:the )?context (?:limit|window)"  # Anthropic, OpenAI Responses
    r"|exceeds the available context size"  # llama.cpp
    r"|context length of only|greater than the context length"  # LM Studio
    r"|input token count.{0,40}exceeds the maximum"  # Google
    r"|input is too long for (?:the )?requested model"  # Bedrock
    r"|maximum prompt length is \d"  # xAI
    r"|exceeded model token limit"  # Moonshot
    r"|context window exceeds limit"  # MiniMax
    r"|range of input length should be"  # DashScope
    r"|total number of tokens in the prompt cannot exceed"  # Cohere
    r"|`inputs`.{0,60}must (?:be <=|have less than) \d"  # Text Generation Inference
    r"|prompt token count of \d{1,12} exceeds"  # GitHub
    r"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE,
)
_N = r"(\d{1,12})\b"
_INPUT = re.compile(
    rf"\b{_N} (?:tokens )?(?:in the messages|in the prompt|from the input|of text input|input tokens)"
    rf"|(?:request|input|input length|token count) \({_N}"
    rf"|(?:resulted in|request contains|prompt contains|token count of|context limit:) {_N}"
    rf"|(?:too long:|received|given:|\(length|requested:) {_N}",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    rf"> {_N}"
    rf"|context length(?: is(?: only)?| of(?: only)?|:) {_N}"
    rf"|(?:model with|tokens allowed|tokens allowed:) \(?{_N}"
    rf"|(?:context size|context length|allowed length|tokens allowed) \({_N}"
    rf"|(?:prompt length is|model length of|token limit:|cannot exceed|the limit of|must be <=) {_N}"
    rf"|less than {_N} tokens|max size: {_N} tokens"
    rf"|input length should be \[\d+, {_N}",
    re.IGNORECASE,
)


def is_too_long(body: ErrorBody) -> bool:
    """Return whether the error says that the request does not fit into the context window."""
    return any(name in _NAMES for name in body.names) or bool(_TEXT.search(body.message))


def token_counts(body: ErrorBody) -> tuple[int | None, int | None]:
    """Return the tokens of the input, and how many the context window has. None if unknown."""
    text = body.message.replace(",", "")
    input_tokens, limit_tokens = body.input_tokens, body.limit_tokens
    if input_tokens is None:
        input_tokens = _first(_INPUT.findall(text))
    if limit_tokens is None:
        limit_tokens = _first(_LIMIT.findall(text))
    return input_tokens, limit_tokens


def _first(found: Sequence[Sequence[str]]) -> int | None:
    """Return the first group of the first match that is a number."""
    return next((int(digits) for digits in (found[0] if found else ()) if digits), None)
