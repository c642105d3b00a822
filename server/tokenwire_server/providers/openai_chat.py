"""Encoding of requests for OpenAI Chat Completions, for OpenAI and all compatible servers.

https://platform.openai.com/docs/api-reference/chat/create, and `openai.types.chat` of the official SDK.
The differences between servers are data: `config.Quirks`.

Where the format allows a choice:

- The content of a message with one text is a string, which even minimal servers read. Other content is a
  list of parts.
- The format has no field for the failure of a tool: its text is sent after "Error: ".
- Reasoning is left out, because the format has no field for it, and OpenAI does not accept it. So is an
  assistant message with nothing but reasoning.
- Cache hints are left out, because these servers cache without them.
- `tools[].function.strict` is not set, which means false. Otherwise the caller's schemas would have to be
  of the subset that strict tools allow.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ..config import ProviderConfig, Quirks
from ..request import (
    Audio,
    ChatRequest,
    Document,
    Image,
    JsonFormat,
    JsonSchemaFormat,
    Message,
    Part,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Violation,
)
from .decode.openai_chat import OpenAIChatDecoder
from .decode.whole import chat_events
from .unsupported import unsupported_parts, unsupported_settings

RESERVED_KEYS = frozenset({"model", "messages", "stream"})
"""Keys of the body that `provider_options` may never set."""
MAX_STOP_SEQUENCES = 4

_UNSUPPORTED_KEYS = {
    "n": "is not supported: Tokenwire returns one answer",
    "functions": "is not supported: use tools",
    "function_call": "is not supported: use tool_choice",
}
"""Keys whose results Tokenwire would drop."""
_LIMIT_FIELDS = frozenset({"max_tokens", "max_completion_tokens"})
_NO_ARGUMENTS = msgspec.Raw(b'{"type":"object","properties":{}}')


class OpenAIChat:
    """The dialect of `POST /chat/completions`."""

    path = "/chat/completions"

    def check(self, request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
        yield from unsupported_parts(
            request, in_messages=(Document, Audio), in_results=(Text, Image, Document)
        )
        yield from unsupported_settings(request)
        yield from _check_messages(request)
        yield from _check_generation(request, config.quirks)
        yield from _check_provider_options(request, config.quirks)

    def body(
        self,
        request: ChatRequest,
        model: str,
        config: ProviderConfig,
        max_output_tokens: int | None,  # noqa: ARG002  # these servers require no limit
    ) -> dict[str, Any]:
        return {
            "model": model,
            "messages": list(_messages(request.messages, config.quirks)),
            "stream": True,
            **_settings(request, config.quirks),
            **request.provider_options,
        }

    def decoder(self, config: ProviderConfig, provider: str = "") -> OpenAIChatDecoder:
        return OpenAIChatDecoder(
            done_marker=config.quirks.done_marker,
            think_tags=config.quirks.think_tags,
            cumulative=config.quirks.cumulative,
            provider=provider,
        )

    def events_of(self, answer: Mapping[str, Any]) -> bytes | None:
        return chat_events(answer)


def _settings(request: ChatRequest, quirks: Quirks) -> dict[str, Any]:
    """Return the keys of the body that only some requests have."""
    generation = request.generation
    settings: dict[str, Any] = {
        "stream_options": _stream_options(quirks),
        quirks.max_tokens_field: generation.max_output_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "seed": generation.seed,
        "presence_penalty": generation.presence_penalty,
        "frequency_penalty": generation.frequency_penalty,
        "stop": list(generation.stop_sequences) or None,
        "reasoning_effort": generation.reasoning_effort,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request.tool_choice),
        "response_format": _response_format(request.response_format),
    }
    return {key: value for key, value in settings.items() if value is not None}


def _stream_options(quirks: Quirks) -> dict[str, bool] | None:
    options = {}
    if quirks.usage_option:
        options["include_usage"] = True
    if quirks.continuous_usage:
        options["continuous_usage_stats"] = True
    return options or None


def _messages(messages: Iterable[Message], quirks: Quirks) -> Iterator[dict[str, Any]]:
    for message in messages:
        match message.role:
            case "tool":
                for part in message.parts:
                    if isinstance(part, ToolResult):
                        yield _tool_message(part)
            case "assistant":
                if written := _assistant_message(message):
                    yield written
            case "system":
                yield {"role": quirks.system_role, "content": _content(message.parts)}
            case "user":
                yield {"role": "user", "content": _content(message.parts)}


def _tool_message(result: ToolResult) -> dict[str, Any]:
    return {
        "role": "tool",
        "tool_call_id": result.tool_call_id,
        "content": f"Error: {result.text}" if result.is_error else result.text,
    }


def _assistant_message(message: Message) -> dict[str, Any] | None:
    texts = [part for part in message.parts if isinstance(part, Text)]
    calls = [_tool_call(part) for part in message.parts if isinstance(part, ToolCall)]
    if not texts and not calls:
        return None
    written = {"role": "assistant", "content": _content(texts) if texts else None}
    return {**written, "tool_calls": calls} if calls else written


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json}
    return {"id": call.id, "type": "function", "function": function}


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    match parts:
        case [Text(text=text)]:
            return text
        case _:
            return [_content_part(part) for part in parts if isinstance(part, Text | Image)]


def _content_part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    url = part.uri
    if not url:
        url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    schema = tool.parameters_json_schema
    function["parameters"] = msgspec.Raw(schema.encode()) if schema else _NO_ARGUMENTS
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice | None) -> str | dict[str, Any] | None:
    if choice is None:
        return None
    if choice.mode == "tool":
        return {"type": "function", "function": {"name": choice.tool_name}}
    return choice.mode


def _response_format(
    response_format: ResponseFormat | None,
) -> dict[str, Any] | None:
    if isinstance(response_format, JsonFormat):
        return {"type": "json_object"}
    if not isinstance(response_format, JsonSchemaFormat):
        return None
    schema = {
        "name": response_format.name,
        "schema": msgspec.Raw(response_format.schema_json.encode()),
        "strict": response_format.strict,
    }
    return {"type": "json_schema", "json_schema": schema}


def _check_messages(request: ChatRequest) -> Iterator[Violation]:
    if not any(_messages(request.messages, Quirks())):
        yield Violation("messages", "must contain more than reasoning")


def _check_generation(request: ChatRequest, quirks: Quirks) -> Iterator[Violation]:
    generation = request.generation
    if generation.top_k is not None and not quirks.top_k:
        yield Violation("generation.top_k", "this provider does not support this")
    if len(generation.stop_sequences) > MAX_STOP_SEQUENCES:
        yield Violation(
            "generation.stop_sequences",
            f"OpenAI Chat Completions accepts at most {MAX_STOP_SEQUENCES}",
        )
    if generation.reasoning_effort is not None and not quirks.reasoning_effort:
        yield Violation("generation.reasoning.effort", "this provider does not support this")
    if generation.reasoning_budget_tokens is not None:
        hint = "; use generation.reasoning.effort" if quirks.reasoning_effort else ""
        yield Violation(
            "generation.reasoning.budget_tokens", f"this provider does not support this{hint}"
        )
    if isinstance(request.response_format, JsonSchemaFormat) and not quirks.json_schema:
        yield Violation("response_format.json_schema", "this provider does not support this")


def _check_provider_options(request: ChatRequest, quirks: Quirks) -> Iterator[Violation]:
    if not request.provider_options:
        return
    own_keys = RESERVED_KEYS | _settings(request, quirks).keys()
    if request.generation.max_output_tokens is not None:
        own_keys |= _LIMIT_FIELDS
    for key in request.provider_options:
        path = f"provider_options.{key}"
        if key in own_keys:
            yield Violation(path, "is set by Tokenwire for this request; remove it")
        elif key in _UNSUPPORTED_KEYS:
            yield Violation(path, _UNSUPPORTED_KEYS[key])
