"""OpenAI Chat Completions: `POST /v1/chat/completions`.

Sources: https://platform.openai.com/docs/api-reference/chat/create,
https://platform.openai.com/docs/api-reference/chat/streaming and, for `reasoning_content`,
https://api-docs.deepseek.com/guides/reasoning_model

The answers are in `chat_completions_answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .chat_completions_answer import CITATIONS, STOP_REASONS, stream, whole
from .chat_completions_state import STATES, check_state
from .conversation import ConversationReader, objects_in, tool_choice
from .errors import openai_error as error
from .wire import BadRequest, Conversation, ProviderRequest, ToolSpec, require, typed

__all__ = [
    "CITATIONS", "ID_PREFIX", "INPUT_FIELDS", "PATH", "REQUEST_ID_HEADER",
    "STATES", "STOP_REASONS",
    "api_key", "check_state", "error", "read", "stream", "whole",
]  # fmt: skip

PATH = "/v1/chat/completions"
ID_PREFIX = "chatcmpl-"
REQUEST_ID_HEADER = "x-request-id"
INPUT_FIELDS = frozenset({"messages", "tools", "tool_choice", "response_format"})

_ROLES = ("developer", "system", "user", "assistant", "tool", "function")


def api_key(headers: Mapping[str, str]) -> str:
    """Return the key of a request, which OpenAI sends as a bearer token."""
    return headers.get("authorization", "").removeprefix("Bearer ")


def read(body: dict[str, Any], input_bytes: int) -> ProviderRequest:
    model = require(body, "model", str, "a string")
    messages = require(body, "messages", list, "an array of messages")
    if not messages:
        raise BadRequest("Invalid 'messages': empty array.", param="messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise BadRequest(
                f"Invalid value for 'messages[{i}].role'.", param=f"messages[{i}].role"
            )
    limit = typed(body, "max_completion_tokens", int, "an integer")
    if limit is None:
        limit = typed(body, "max_tokens", int, "an integer")
    stop = typed(body, "stop", (str, list), "a string or an array of strings")
    typed(body, "stream_options", dict, "an object")
    return ProviderRequest(
        model=model,
        stream=bool(typed(body, "stream", bool, "a boolean")),
        body=body,
        input_bytes=input_bytes,
        tools=_tools(typed(body, "tools", list, "an array of tools") or []),
        tool_choice=tool_choice(body.get("tool_choice")),
        conversation=_conversation(messages),
        max_output_tokens=limit,
        stop_sequence=stop[0] if isinstance(stop, list) and stop else stop or None,
    )


def _tools(tools: list[Any]) -> tuple[ToolSpec, ...]:
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    return tuple(
        ToolSpec(function["name"], function.get("parameters") or {})
        for function in functions
        if isinstance(function, dict) and isinstance(function.get("name"), str)
    )


def _conversation(messages: list[dict[str, Any]]) -> Conversation:
    reader = ConversationReader()
    for message in messages:
        match message["role"]:
            case "user":
                reader.question(message.get("content"))
            case "assistant":
                for call in objects_in(message.get("tool_calls")):
                    function = call.get("function")
                    reader.call(
                        call.get("id"), function.get("name") if isinstance(function, dict) else None
                    )
            case "tool":
                reader.result(message.get("tool_call_id"), message.get("content"))
    return reader.conversation()
