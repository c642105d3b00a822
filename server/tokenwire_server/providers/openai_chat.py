"""OpenAI Chat Completions: how a request is written, for OpenAI and every server that speaks alike.

https://platform.openai.com/docs/api-reference/chat/create, and `openai.types.chat` of the official SDK.
What differs between servers is data: `config.Quirks`.

Choices the format leaves open:

- A message whose content is one text is written as a string, which the smallest servers read too;
  any other as a list of parts.
- A tool's failure has no field of its own: its text is sent after "Error: ".
- Reasoning is left out: the format has no place for it, and OpenAI takes none back. A message of the
  assistant that held nothing else is left out with it.
- Cache hints are left out: these servers cache by themselves.
- `tools[].function.strict` is not set, which makes it false: the caller's schemas need not be of the
  subset that strict tools demand.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ..config import ProviderConfig, Quirks
from ..request import (
    ChatRequest,
    Image,
    JsonFormat,
    JsonSchemaFormat,
    Message,
    Part,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Violation,
)
from .decode.openai_chat import OpenAIChatDecoder

ALWAYS_OURS = frozenset({"model", "messages", "stream"})
"""Keys of the body that `provider_options` may never set."""
MAX_STOP_SEQUENCES = 4

_NOT_CARRIED = {
    "n": "Tokenwire carries one answer",
    "functions": "use tools",
    "function_call": "use tool_choice",
}
"""Keys whose answers Tokenwire would drop."""
_LIMIT_FIELDS = frozenset({"max_tokens", "max_completion_tokens"})
_NO_ARGUMENTS = msgspec.Raw(b'{"type":"object","properties":{}}')


class OpenAIChat:
    """The dialect of `POST /chat/completions`."""

    path = "/chat/completions"

    def check(self, request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
        yield from _check_messages(request)
        yield from _check_generation(request, config.quirks)
        yield from _check_provider_options(request, config.quirks)

    def body(
        self,
        request: ChatRequest,
        model: str,
        config: ProviderConfig,
        max_output_tokens: int | None,  # noqa: ARG002  # these servers demand no limit
    ) -> dict[str, Any]:
        return {
            "model": model,
            "messages": list(_messages(request.messages, config.quirks)),
            "stream": True,
            **_settings(request, config.quirks),
            **request.provider_options,
        }

    def decoder(self, config: ProviderConfig) -> OpenAIChatDecoder:
        return OpenAIChatDecoder(done_marker=config.quirks.done_marker)


def _settings(request: ChatRequest, quirks: Quirks) -> dict[str, Any]:
    """What the request sets at the top level, beside the keys that every request has."""
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


def _response_format(wanted: JsonFormat | JsonSchemaFormat | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    if isinstance(wanted, JsonFormat):
        return {"type": "json_object"}
    schema = {
        "name": wanted.name,
        "schema": msgspec.Raw(wanted.schema_json.encode()),
        "strict": wanted.strict,
    }
    return {"type": "json_schema", "json_schema": schema}


def _check_messages(request: ChatRequest) -> Iterator[Violation]:
    if not any(_messages(request.messages, Quirks())):
        yield Violation("messages", "nothing is left of them without the model's reasoning")


def _check_generation(request: ChatRequest, quirks: Quirks) -> Iterator[Violation]:
    generation = request.generation
    if generation.top_k is not None and not quirks.top_k:
        yield Violation("generation.top_k", "this provider has no such setting")
    if len(generation.stop_sequences) > MAX_STOP_SEQUENCES:
        yield Violation(
            "generation.stop_sequences",
            f"OpenAI Chat Completions takes at most {MAX_STOP_SEQUENCES}",
        )
    if generation.reasoning_effort is not None and not quirks.reasoning_effort:
        yield Violation("generation.reasoning.effort", "this provider takes no reasoning effort")
    if generation.reasoning_budget_tokens is not None:
        hint = "; it takes generation.reasoning.effort" if quirks.reasoning_effort else ""
        yield Violation(
            "generation.reasoning.budget_tokens", f"this provider has no such setting{hint}"
        )
    if isinstance(request.response_format, JsonSchemaFormat) and not quirks.json_schema:
        yield Violation("response_format.json_schema", "this provider takes no JSON schema")


def _check_provider_options(request: ChatRequest, quirks: Quirks) -> Iterator[Violation]:
    if not request.provider_options:
        return
    ours = ALWAYS_OURS | _settings(request, quirks).keys()
    if request.generation.max_output_tokens is not None:
        ours |= _LIMIT_FIELDS
    for key in request.provider_options:
        path = f"provider_options.{key}"
        if key in ours:
            yield Violation(path, "set by Tokenwire for this request; leave it out")
        elif key in _NOT_CARRIED:
            yield Violation(path, _NOT_CARRIED[key])
