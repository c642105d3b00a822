"""Anthropic Messages: `POST /v1/messages`, and `POST /v1/messages/count_tokens`, which counts.

Sources: https://platform.claude.com/docs/en/api/messages,
https://platform.claude.com/docs/en/api/messages/count_tokens,
https://platform.claude.com/docs/en/build-with-claude/streaming and
https://platform.claude.com/docs/en/api/errors

A count includes tokens read from or written to the cache, because the counting endpoint has no cache. The
answers are in `messages_answer`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import chat_completions
from .conversation import ConversationReader, objects_in, tool_choice
from .errors import anthropic_error as error
from .messages_answer import CITATIONS, STOP_REASONS, stream, whole
from .messages_state import STATES, check_state
from .wire import BadRequest, Conversation, ProviderRequest, ToolSpec, require, typed

__all__ = [
    "CITATIONS", "COUNT_PATH", "ID_PREFIX", "INPUT_FIELDS", "PATH",
    "REQUEST_ID_HEADER", "STATES", "STOP_REASONS",
    "api_key", "check_state", "counted", "error", "read", "read_count", "stream", "whole",
]  # fmt: skip

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
ID_PREFIX = "msg_"
REQUEST_ID_HEADER = "request-id"
INPUT_FIELDS = frozenset(
    {
        "cache_control",
        "messages",
        "output_config",
        "speed",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)

_ID = re.compile("[a-zA-Z0-9_-]+")
_ID_FIELDS = {"tool_use": "id", "tool_result": "tool_use_id"}


def api_key(headers: Mapping[str, str]) -> str:
    """Return the key of a request: from Anthropic's own header, or the bearer token that its SDK sends from
    2.0 on.
    """
    return headers.get("x-api-key") or chat_completions.api_key(headers)


def read(body: dict[str, Any], input_bytes: int) -> ProviderRequest:
    limit = require(body, "max_tokens", int, "an integer")
    if limit < 1:
        raise BadRequest("must be at least 1", param="max_tokens")
    return _read(body, input_bytes, max_output_tokens=limit)


def read_count(body: dict[str, Any], input_bytes: int) -> ProviderRequest:
    if extra := sorted(body.keys() - INPUT_FIELDS - {"model"}):
        raise BadRequest("Extra inputs are not permitted", param=extra[0])
    return _read(body, input_bytes, max_output_tokens=None)


def counted(input_tokens: int) -> dict[str, Any]:
    return {"input_tokens": input_tokens}


def _read(
    body: dict[str, Any], input_bytes: int, *, max_output_tokens: int | None
) -> ProviderRequest:
    model = require(body, "model", str, "a string")
    messages = require(body, "messages", list, "an array of messages")
    if not messages:
        raise BadRequest("at least one message is required", param="messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise BadRequest("must be 'user' or 'assistant'", param=f"messages.{i}.role")
        _check_ids(i, message)
        _check_errors(i, message)
    _check_end(len(messages) - 1, messages[-1])
    stops = typed(body, "stop_sequences", list, "an array of strings")
    return ProviderRequest(
        model=model,
        stream=bool(typed(body, "stream", bool, "a boolean")),
        body=body,
        input_bytes=input_bytes,
        tools=tuple(
            ToolSpec(tool["name"], tool.get("input_schema") or {})
            for tool in typed(body, "tools", list, "an array of tools") or []
            if isinstance(tool, dict) and isinstance(tool.get("name"), str)
        ),
        tool_choice=tool_choice(body.get("tool_choice"), required="any"),
        conversation=_conversation(messages),
        max_output_tokens=max_output_tokens,
        stop_sequence=stops[0] if stops else None,
    )


def _check_ids(i: int, message: dict[str, Any]) -> None:
    for j, block in enumerate(objects_in(message.get("content"))):
        name = _ID_FIELDS.get(str(block.get("type")))
        if name is not None and not _ID.fullmatch(str(block.get(name))):
            param = f"messages.{i}.content.{j}.{block['type']}.{name}"
            raise BadRequest(f"String should match pattern '^{_ID.pattern}$'", param=param)


def _check_errors(i: int, message: dict[str, Any]) -> None:
    for j, block in enumerate(objects_in(message.get("content"))):
        if block.get("type") != "tool_result" or block.get("is_error") is not True:
            continue
        param = f"messages.{i}.content.{j}.tool_result"
        content = block.get("content")
        if not content:
            raise BadRequest("content cannot be empty if `is_error` is true", param=param)
        if any(piece.get("type") != "text" for piece in objects_in(content)):
            raise BadRequest("all content must be type `text` if `is_error` is true", param=param)


def _check_end(i: int, message: dict[str, Any]) -> None:
    types = [block.get("type") for block in objects_in(message.get("content"))]
    if message["role"] == "assistant" and types and types[-1] in ("thinking", "redacted_thinking"):
        text = "The final block in an assistant message cannot be `thinking`."
        raise BadRequest(text, param=f"messages.{i}")


def _conversation(messages: list[dict[str, Any]]) -> Conversation:
    """Read the messages. A user's message that contains only tool results is not a question."""
    reader = ConversationReader()
    for message in messages:
        content = message.get("content")
        if message["role"] == "assistant":
            for block in objects_in(content):
                if block.get("type") == "tool_use":
                    reader.call(block.get("id"), block.get("name"))
            continue
        results = [block for block in objects_in(content) if block.get("type") == "tool_result"]
        for block in results:
            reader.result(
                block.get("tool_use_id"),
                block.get("content"),
                is_error=block.get("is_error") is True,
            )
        if not isinstance(content, list) or len(content) > len(results):
            reader.question(content)
    return reader.conversation()
