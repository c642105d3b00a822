"""How a request is written for the OpenAI Responses API, and what it cannot honour of one.

Source: https://platform.openai.com/docs/api-reference/responses/create and the types of the official
SDK, `openai.types.responses.response_create_params`.

Every request is stateless (`store` is false): the conversation is the caller's, and nothing of it
stays with the provider. A reasoning model goes on from its own earlier thoughts when the caller
sends its signed reasoning back; what the signature holds stands in `decode.openai_responses_items.sign`.

Choices the API leaves open:

- `include: ["reasoning.encrypted_content"]` is set when the request asks for reasoning: models that
  do not reason refuse it ("Encrypted content is not supported with this model"). OpenAI sends the
  encrypted content without being asked; compatible servers may need the word.
- A summary of the reasoning is not asked for: OpenAI grants it to verified organisations only and
  refuses the request of others. Who has it passes `{"reasoning": {"effort": ..., "summary": "auto"}}`
  as provider options and leaves `generation.reasoning` alone.
- `stream_options.include_obfuscation` is false: the padding hides token lengths from who watches the
  wire, and would be a tenth of what is read.
- A tool's failure has no field of its own: its text is sent after "Error: ".
- `tools[].strict` is false, as in Chat Completions; left out, this API would take it as true and
  refuse schemas that leave a property optional.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec

from ..config import ProviderConfig
from ..request import (
    ChatRequest,
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
from .decode.base import Decoder
from .decode.openai_responses import OpenAIResponsesDecoder
from .decode.openai_responses_items import unsign

MIN_OUTPUT_TOKENS = 16
"""Least `max_output_tokens` that the API takes."""

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
"""Keys of the body that the counting endpoint takes:
`openai.types.responses.input_token_count_params`."""
NOT_COUNTED = frozenset({"prompt"})
"""Keys that bring input, a stored prompt, which the counting endpoint takes not."""

_NO_ARGUMENTS = msgspec.Raw(b'{"type":"object","properties":{}}')
_Json = dict[str, Any]


class OpenAIResponses:
    """The Responses API. Has no state; see `base.Dialect` for what each method promises."""

    path = "/responses"
    count_path = "/responses/input_tokens"

    def check(self, request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
        yield from _message_violations(request)
        yield from _generation_violations(request, config)
        yield from _option_violations(request)

    def body(
        self,
        request: ChatRequest,
        model: str,
        config: ProviderConfig,
        max_output_tokens: int | None,  # noqa: ARG002  # this provider demands no limit
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

    def decoder(self, config: ProviderConfig) -> Decoder:  # noqa: ARG002  # no server differs yet
        return OpenAIResponsesDecoder()


def _settings(request: ChatRequest) -> _Json:
    """What the request sets at the top level, beside the model and the conversation."""
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
    if request.response_format is not None:
        body["text"] = {"format": _format(request.response_format)}
    return body


def _message_violations(request: ChatRequest) -> Iterator[Violation]:
    parts = (part for message in request.messages for part in message.parts)
    if all(isinstance(part, Reasoning) for part in parts):
        yield Violation("messages", "nothing is left of them without the model's reasoning")


def _generation_violations(request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
    generation, quirks = request.generation, config.quirks
    unknown = "the OpenAI Responses API has no such setting"
    if (
        generation.max_output_tokens is not None
        and generation.max_output_tokens < MIN_OUTPUT_TOKENS
    ):
        yield Violation(
            "generation.max_output_tokens",
            f"the OpenAI Responses API takes no less than {MIN_OUTPUT_TOKENS}",
        )
    if generation.top_k is not None and not quirks.top_k:
        yield Violation("generation.top_k", unknown)
    if generation.seed is not None:
        yield Violation("generation.seed", unknown)
    if generation.presence_penalty is not None:
        yield Violation("generation.presence_penalty", unknown)
    if generation.frequency_penalty is not None:
        yield Violation("generation.frequency_penalty", unknown)
    if generation.stop_sequences:
        yield Violation("generation.stop_sequences", unknown)
    if generation.reasoning_budget_tokens is not None:
        yield Violation(
            "generation.reasoning.budget_tokens", f"{unknown}; it takes generation.reasoning.effort"
        )
    if generation.reasoning_effort is not None and not quirks.reasoning_effort:
        yield Violation("generation.reasoning.effort", "this provider takes no reasoning effort")
    if isinstance(request.response_format, JsonSchemaFormat) and not quirks.json_schema:
        yield Violation("response_format.json_schema", "this provider takes no JSON schema")


def _option_violations(request: ChatRequest) -> Iterator[Violation]:
    ours = {"model", "input"} | _settings(request).keys()
    for key in request.provider_options:
        path = f"provider_options.{key}"
        if key in ours:
            yield Violation(path, "set by Tokenwire for this request; leave it out")
        elif key == "background":
            yield Violation(
                path, "an answer in the background would outlive the call that pays for it"
            )


def _input(messages: tuple[Message, ...], config: ProviderConfig) -> list[_Json]:
    """The conversation as items. Reasoning that nothing of the model follows is left out.

    The API refuses a reasoning item "without its required following item"; an answer that was cut
    off while the model thought is such a one.
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
    """One item for each part, as the API's own answers have them; None for what it takes not back."""
    match part:
        case Text(text=text):
            return {"type": "message", "role": "assistant", "content": text}
        case ToolCall(id=call_id, name=name, arguments_json=arguments):
            return {
                "type": "function_call",
                "call_id": call_id,
                "name": name,
                "arguments": arguments,
            }
        case Reasoning():
            return _reasoning_item(part)
        case _:
            return None


def _reasoning_item(part: Reasoning) -> _Json | None:
    signed = unsign(part.signature)
    if signed is None:
        return None
    item_id, encrypted_content = signed
    return {
        "type": "reasoning",
        "id": item_id,
        "summary": [{"type": "summary_text", "text": part.text}] if part.text else [],
        "encrypted_content": encrypted_content,
    }


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
