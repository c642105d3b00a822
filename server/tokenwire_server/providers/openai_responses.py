"""Encoding of requests for the OpenAI Responses API.

Source: https://platform.openai.com/docs/api-reference/responses/create and the types of the official
SDK, `openai.types.responses.response_create_params`.

Every request is stateless (`store` is false): it contains the whole conversation, and the provider stores
nothing. A reasoning model continues from its earlier reasoning if the caller sends that back with its
provider state; see `decode.openai_responses_state`.

Where the API allows a choice:

- `include: ["reasoning.encrypted_content"]` is set only if the request sets a reasoning effort, because
  models that do not reason refuse it ("Encrypted content is not supported with this model"). OpenAI sends
  the encrypted content without it; compatible servers may need it.
- No summary of the reasoning is requested, because OpenAI refuses this for unverified organisations. A
  verified caller passes `{"reasoning": {"effort": ..., "summary": "auto"}}` as provider options and leaves
  `generation.reasoning` unset.
- `stream_options.include_obfuscation` is false. The padding would hide token lengths from observers of the
  connection, and would be a tenth of the received bytes.
- The API has no field for the failure of a tool: its text is sent after "Error: ".
- `tools[].strict` is false, as in Chat Completions. The default of this API is true, which refuses schemas
  with optional properties.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ..config import ProviderConfig
from ..request import (
    Audio,
    ChatRequest,
    Document,
    Image,
    JsonFormat,
    JsonSchemaFormat,
    Message,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Violation,
)
from .decode import openai_responses_state as state
from .decode.base import Decoder
from .decode.openai_responses import OpenAIResponsesDecoder
from .decode.whole import responses_events
from .unsupported import unsupported_parts, unsupported_settings

MIN_OUTPUT_TOKENS = 16
"""Smallest `max_output_tokens` that the API accepts."""

COUNTED = frozenset(
    {
        "conversation",
        "input",
        "instructions",
        "model",
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
"""Keys of the body that the counting endpoint accepts:
`openai.types.responses.input_token_count_params`."""
NOT_COUNTED = frozenset({"prompt"})
"""Keys that add input, such as a stored prompt, that the counting endpoint does not accept."""

_NO_ARGUMENTS = msgspec.Raw(b'{"type":"object","properties":{}}')
_Json = dict[str, Any]


class OpenAIResponses:
    """The dialect of `POST /responses`. Has no state; `base.Dialect` documents the methods."""

    path = "/responses"
    count_path = "/responses/input_tokens"

    def check(self, request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
        yield from unsupported_parts(
            request, in_messages=(Document, Audio), in_results=(Text, Image, Document)
        )
        yield from unsupported_settings(request)
        yield from _message_violations(request)
        yield from _generation_violations(request, config)
        yield from _option_violations(request)

    def body(
        self,
        request: ChatRequest,
        model: str,
        config: ProviderConfig,
        max_output_tokens: int | None,  # noqa: ARG002  # this provider requires no limit
    ) -> _Json:
        return {
            "model": model,
            "input": _input(request.messages, config),
            **_settings(request),
            **request.provider_options,
        }

    def count_body(self, body: _Json) -> _Json | None:
        if not NOT_COUNTED.isdisjoint(body):
            return None
        return {key: value for key, value in body.items() if key in COUNTED}

    def decoder(self, config: ProviderConfig, provider: str = "") -> Decoder:  # noqa: ARG002  # the same for all servers
        return OpenAIResponsesDecoder(provider=provider)

    def events_of(self, answer: Mapping[str, Any]) -> bytes | None:
        return responses_events(answer)


def _settings(request: ChatRequest) -> _Json:
    """Return the keys of the body other than the model and the input."""
    generation = request.generation
    body: _Json = {
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "store": False,
    }
    for name in ("max_output_tokens", "temperature", "top_p", "top_k"):
        value = getattr(generation, name)
        if value is not None:
            body[name] = value
    if generation.reasoning_effort is not None:
        body["reasoning"] = {"effort": generation.reasoning_effort}
        if generation.reasoning_effort != "none":
            body["include"] = ["reasoning.encrypted_content"]
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.tool_choice is not None:
        body["tool_choice"] = _tool_choice(request.tool_choice)
    if isinstance(request.response_format, JsonFormat | JsonSchemaFormat):
        body["text"] = {"format": _format(request.response_format)}
    return body


def _message_violations(request: ChatRequest) -> Iterator[Violation]:
    parts = (part for message in request.messages for part in message.parts)
    if all(isinstance(part, Reasoning) for part in parts):
        yield Violation("messages", "must contain more than reasoning")


def _generation_violations(request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
    generation, quirks = request.generation, config.quirks
    unsupported = "the OpenAI Responses API does not support this"
    if (
        generation.max_output_tokens is not None
        and generation.max_output_tokens < MIN_OUTPUT_TOKENS
    ):
        yield Violation(
            "generation.max_output_tokens",
            f"the OpenAI Responses API accepts no less than {MIN_OUTPUT_TOKENS}",
        )
    if generation.top_k is not None and not quirks.top_k:
        yield Violation("generation.top_k", unsupported)
    if generation.seed is not None:
        yield Violation("generation.seed", unsupported)
    if generation.presence_penalty is not None:
        yield Violation("generation.presence_penalty", unsupported)
    if generation.frequency_penalty is not None:
        yield Violation("generation.frequency_penalty", unsupported)
    if generation.stop_sequences:
        yield Violation("generation.stop_sequences", unsupported)
    if generation.reasoning_budget_tokens is not None:
        yield Violation(
            "generation.reasoning.budget_tokens",
            f"{unsupported}; use generation.reasoning.effort",
        )
    if generation.reasoning_effort is not None and not quirks.reasoning_effort:
        yield Violation("generation.reasoning.effort", "this provider does not support this")
    if isinstance(request.response_format, JsonSchemaFormat) and not quirks.json_schema:
        yield Violation("response_format.json_schema", "this provider does not support this")


def _option_violations(request: ChatRequest) -> Iterator[Violation]:
    own_keys = {"model", "input"} | _settings(request).keys()
    for key in request.provider_options:
        path = f"provider_options.{key}"
        if key in own_keys:
            yield Violation(path, "is set by Tokenwire for this request; remove it")
        elif key == "background":
            yield Violation(
                path, "is not supported: a background response would continue after this call"
            )


def _input(messages: tuple[Message, ...], config: ProviderConfig) -> list[_Json]:
    """Return the conversation as items. Reasoning without a following item of the model is left out.

    The API refuses a reasoning item "without its required following item". An answer that was cut off
    during the reasoning ends with such an item.
    """
    items: list[_Json] = []
    for message in messages:
        if message.role == "assistant":
            items += filter(None, map(_assistant_item, message.parts))
        elif message.role == "tool":
            items += [_result_item(part) for part in message.parts if isinstance(part, ToolResult)]
        else:
            role = config.quirks.system_role if message.role == "system" else message.role
            items.append({"type": "message", "role": role, "content": _content(message.parts)})
    return [
        item
        for position, item in enumerate(items)
        if item["type"] != "reasoning" or _is_followed_up(items, position)
    ]


def _is_followed_up(items: list[_Json], position: int) -> bool:
    for item in items[position + 1 :]:
        if item["type"] != "reasoning":
            return item["type"] == "function_call" or item.get("role") == "assistant"
    return False


def _content(parts: tuple[Part, ...]) -> str | list[_Json]:
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_content_part(part) for part in parts if isinstance(part, Text | Image)]


def _content_part(part: Text | Image) -> _Json:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    url = part.uri
    if not url:
        url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode('ascii')}"
    return {"type": "input_image", "detail": "auto", "image_url": url}


def _assistant_item(part: Part) -> _Json | None:
    """Return the item for one part. None for an empty text, and for reasoning that the API cannot read."""
    match part:
        case Text(text=text) if text:
            message: _Json = {"type": "message", "role": "assistant", "content": text}
            if (of_text := state.read(state.TextState, part.state)) and of_text.phase:
                message["phase"] = of_text.phase
            return message
        case ToolCall(id=call_id, name=name, arguments_json=arguments):
            call: _Json = {
                "type": "function_call",
                "call_id": call_id,
                "name": name,
                "arguments": arguments,
            }
            if (of_call := state.read(state.CallState, part.state)) and of_call.namespace:
                call["namespace"] = of_call.namespace
            return call
        case Reasoning():
            return _reasoning_item(part)
        case _:
            return None


def _reasoning_item(part: Reasoning) -> _Json | None:
    whole = state.read(state.ReasoningState, part.state) or _of_signature(part.signature)
    if whole is None:
        return None
    parts: dict[str, list[_Json]] = {"summary_text": [], "reasoning_text": []}
    for part_type, text in whole.split(part.text) if part.text else ():
        parts.setdefault(part_type, []).append({"type": part_type, "text": text})
    item: _Json = {"type": "reasoning", "id": whole.id, "summary": parts["summary_text"]}
    if parts["reasoning_text"]:
        item["content"] = parts["reasoning_text"]
    if whole.encrypted_content:
        item["encrypted_content"] = whole.encrypted_content
    elif not parts["reasoning_text"]:
        return None
    return item


def _of_signature(signature: str) -> state.ReasoningState | None:
    """Return the state that earlier versions wrote into the signature: `rs:ITEM_ID:ENCRYPTED_CONTENT`."""
    kind, _, rest = signature.partition(":")
    item_id, _, encrypted_content = rest.partition(":")
    if kind != "rs" or not item_id or not encrypted_content:
        return None
    return state.ReasoningState(item_id, encrypted_content)


def _result_item(part: ToolResult) -> _Json:
    return {
        "type": "function_call_output",
        "call_id": part.tool_call_id,
        "output": f"Error: {part.text}" if part.is_error else part.text,
    }


def _tool(tool: Tool) -> _Json:
    function: _Json = {"type": "function", "name": tool.name}
    if tool.description:
        function["description"] = tool.description
    schema = tool.parameters_json_schema
    function["parameters"] = msgspec.Raw(schema.encode()) if schema else _NO_ARGUMENTS
    function["strict"] = False
    return function


def _tool_choice(choice: ToolChoice) -> str | _Json:
    if choice.mode == "tool":
        return {"type": "function", "name": choice.tool_name}
    return choice.mode


def _format(response_format: JsonFormat | JsonSchemaFormat) -> _Json:
    if isinstance(response_format, JsonFormat):
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "name": response_format.name,
        "schema": msgspec.Raw(response_format.schema_json.encode()),
        "strict": response_format.strict,
    }
