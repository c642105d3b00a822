"""The table of the words with which servers name the end of an answer, for all formats.

Compatible servers and proxies pass on words of other formats, so each decoder uses the whole table.
"""

from __future__ import annotations

import re
from typing import TypeGuard

from ...events import FinishReason

FINISH_REASONS: dict[str, FinishReason | None] = {
    # OpenAI's own words
    "stop": FinishReason.STOP,
    "length": FinishReason.MAX_TOKENS,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    # Anthropic
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "max_tokens": FinishReason.MAX_TOKENS,
    "model_context_window_exceeded": FinishReason.CONTEXT_FULL,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.REFUSAL,
    "pause_turn": FinishReason.PAUSED,
    "compaction": FinishReason.PAUSED,
    # OpenAI Responses
    "completed": FinishReason.STOP,
    "max_output_tokens": FinishReason.MAX_TOKENS,
    "max_messages": FinishReason.PAUSED,
    "steered": FinishReason.PAUSED,
    "failed": None,
    "cancelled": None,
    # Gemini, whose STOP and MAX_TOKENS are above
    "safety": FinishReason.CONTENT_FILTER,
    "recitation": FinishReason.CONTENT_FILTER,
    "blocklist": FinishReason.CONTENT_FILTER,
    "prohibited_content": FinishReason.CONTENT_FILTER,
    "spii": FinishReason.CONTENT_FILTER,
    "language": FinishReason.CONTENT_FILTER,
    "model_armor": FinishReason.CONTENT_FILTER,
    "image_safety": FinishReason.CONTENT_FILTER,
    "image_prohibited_content": FinishReason.CONTENT_FILTER,
    "image_recitation": FinishReason.CONTENT_FILTER,
    "malformed_function_call": FinishReason.INVALID_TOOL_CALLS,
    "unexpected_tool_call": FinishReason.INVALID_TOOL_CALLS,
    "function_call_filter": FinishReason.INVALID_TOOL_CALLS,
    "malformed_response": None,
    "missing_thought_signature": None,
    "too_many_tool_calls": FinishReason.OTHER,
    "no_image": FinishReason.OTHER,
    "other": FinishReason.OTHER,
    # Cohere
    "complete": FinishReason.STOP,
    "tool_call": FinishReason.TOOL_CALLS,
    "error_toxic": FinishReason.CONTENT_FILTER,
    "error_limit": FinishReason.CONTEXT_FULL,
    "user_cancel": None,
    "timeout": None,
    # Bedrock
    "finish": FinishReason.STOP,
    "endoftext": FinishReason.STOP,
    "content_filtered": FinishReason.CONTENT_FILTER,
    "content_policy_violation": FinishReason.CONTENT_FILTER,
    "guardrail_intervened": FinishReason.CONTENT_FILTER,
    "malformed_tool_use": FinishReason.INVALID_TOOL_CALLS,
    "malformed_model_output": None,
    # Mistral, whose "model_length" means that the context window is full
    "model_length": FinishReason.CONTEXT_FULL,
    "error": None,
    # GLM
    "sensitive": FinishReason.CONTENT_FILTER,
    "network_error": None,
    # DeepSeek, vLLM and SGLang
    "insufficient_system_resource": None,
    "abort": None,
    # Text Generation Inference, llama.cpp, Ollama, LM Studio and watsonx
    "end": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "eos_found": FinishReason.STOP,
    "word": FinishReason.STOP_SEQUENCE,
    "stop_string_found": FinishReason.STOP_SEQUENCE,
    "limit": FinishReason.MAX_TOKENS,
    "max_length": FinishReason.MAX_TOKENS,
    "max_new_tokens": FinishReason.MAX_TOKENS,
    "token_limit": FinishReason.MAX_TOKENS,
    "max_predicted_tokens_reached": FinishReason.MAX_TOKENS,
    "context_length": FinishReason.CONTEXT_FULL,
    "context_length_reached": FinishReason.CONTEXT_FULL,
    "context_length_exceeded": FinishReason.CONTEXT_FULL,
    "context_window_exceeded": FinishReason.CONTEXT_FULL,
    "load": None,
    "unload": None,
    "model_unloaded": None,
    "user_stopped": None,
    "time_limit": None,
}
"""Words in lower case. None: the server failed, and the answer is incomplete. Every other word becomes OTHER.
"""
_SEPARATORS = re.compile(r"[-_ ]+")
_BY_LETTERS = {_SEPARATORS.sub("", word): reason for word, reason in FINISH_REASONS.items()}
_NO_REASONS = ("", "null", "none")
"""Words for a finish reason that is not known yet, such as DashScope's "null"."""


def finish_reason(word: str) -> FinishReason | None:
    """Return the finish reason for a server's word. None if it means that the server failed.

    Case, hyphens and underscores make no difference. Text after a colon is a detail (Gemini:
    "content_filter: RECITATION").
    """
    letters = _SEPARATORS.sub("", word.lower().partition(":")[0])
    return _BY_LETTERS.get(letters.removeprefix("finishreason"), FinishReason.OTHER)


def is_finish_reason(word: object) -> TypeGuard[str]:
    """Return whether the value of a field for finish reasons is one."""
    return isinstance(word, str) and word.strip().lower() not in _NO_REASONS
