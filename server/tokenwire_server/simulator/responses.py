"""OpenAI Responses: `POST /v1/responses`, and `POST /v1/responses/input_tokens`, which counts.

Sources: https://platform.openai.com/docs/api-reference/responses/create,
https://platform.openai.com/docs/api-reference/responses-streaming and
https://platform.openai.com/docs/api-reference/responses/input-tokens

The answers are in `responses_answer`.
"""

from __future__ import annotations

from typing import Any

from .chat_completions import api_key
from .conversation import ConversationReader, objects_in, tool_choice
from .errors import openai_error as error
from .responses_answer import CITATIONS, ID_PREFIX, STOP_REASONS, stream, whole
from .responses_state import STATES, check_state
from .wire import BadRequest, Conversation, ProviderRequest, ToolSpec, require, typed

__all__ = [
    "CITATIONS", "COUNT_PATH", "ID_PREFIX", "INPUT_FIELDS", "PATH",
    "REQUEST_ID_HEADER", "STATES", "STOP_REASONS",
    "api_key", "check_state", "counted", "error", "read", "read_count", "stream", "whole",
]  # fmt: skip

PATH = "/v1/responses"
COUNT_PATH = "/v1/responses/input_tokens"
REQUEST_ID_HEADER = "x-request-id"
MAX_CALL_ID_CHARS = 64
INPUT_FIELDS = frozenset(
    {
        "conversation",
        "input",
        "instructions",
        "parallel_tool_calls",
        "personality",
        "previous_response_id",
        "reasoning",
        "text",
        "tool_choice",
        "tools",
        "truncation",
    }
)


def read(body: dict[str, Any], input_bytes: int) -> ProviderRequest:
    model = require(body, "model", str, "a string")
    given = body.get("input")
    if given is None:
        raise BadRequest("Missing required parameter: 'input'.", param="input")
    if not isinstance(given, str | list) or not given:
        raise BadRequest("Invalid 'input': expected a text or items.", param="input")
    typed(body, "include", list, "an array")
    _check_ids(given)
    return ProviderRequest(
        model=model,
        stream=bool(typed(body, "stream", bool, "a boolean")),
        body=body,
        input_bytes=input_bytes,
        tools=tuple(
            ToolSpec(tool["name"], tool.get("parameters") or {})
            for tool in typed(body, "tools", list, "an array of tools") or []
            if isinstance(tool, dict) and isinstance(tool.get("name"), str)
        ),
        tool_choice=tool_choice(body.get("tool_choice")),
        conversation=_conversation(given),
        max_output_tokens=typed(body, "max_output_tokens", int, "an integer"),
        stop_sequence=None,
    )


def read_count(body: dict[str, Any], input_bytes: int) -> ProviderRequest:
    if extra := sorted(body.keys() - INPUT_FIELDS - {"model"}):
        raise BadRequest(f"Unknown parameter: '{extra[0]}'.", param=extra[0])
    return read(body, input_bytes)


def _check_ids(given: str | list[Any]) -> None:
    for i, item in enumerate(objects_in(given)):
        length = len(str(item.get("call_id")))
        if length > MAX_CALL_ID_CHARS:
            raise BadRequest(
                f"Invalid 'input[{i}].call_id': string too long. Expected a string with maximum length "
                f"{MAX_CALL_ID_CHARS}, but instead got a string with length {length}.",
                param=f"input[{i}].call_id",
            )


def _conversation(given: str | list[Any]) -> Conversation:
    reader = ConversationReader()
    if isinstance(given, str):
        reader.question(given)
    for item in objects_in(given):
        if item.get("role") == "user":
            reader.question(item.get("content"))
        elif item.get("type") == "function_call":
            reader.call(item.get("call_id"), item.get("name"))
        elif item.get("type") == "function_call_output":
            reader.result(item.get("call_id"), item.get("output"))
    return reader.conversation()


def counted(input_tokens: int) -> dict[str, Any]:
    return {"object": "response.input_tokens", "input_tokens": input_tokens}
