"""Encoding of requests for the OpenAI Responses API.

Source: https://platform.openai.com/docs/api-reference/responses/create and the types of the official
SDK, `openai.types.responses.response_create_params`.

Every request is stateless (`store` is false): it contains the whole conversation, and the provider stores
nothing. `openai_responses_input` writes the conversation.

Where the API allows a choice:

- `include: ["reasoning.encrypted_content"]` is set only if the request shows that the model reasons: with an
  effort, a summary, or earlier encrypted reasoning. Models that do not reason refuse it ("Encrypted content
  is not supported with this model"). OpenAI sends the encrypted content without it; compatible servers may
  need it.
- No summary of the reasoning is requested unless the caller sets one, because OpenAI refuses this for
  unverified organizations.
- `stream_options.include_obfuscation` is false. The padding would hide token lengths from observers of the
  connection, and would be a tenth of the received bytes.
- `tools[].strict` is false, as in Chat Completions. The default of this API is true, which refuses schemas
  with optional properties. A schema of an object gets `properties`, because OpenAI refuses one without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..config import ProviderConfig
from ..request import (
    Audio,
    ChatRequest,
    GrammarFormat,
    JsonFormat,
    JsonSchemaFormat,
    RegexFormat,
    Tool,
    ToolChoice,
    Violation,
)
from .decode.base import Decoder
from .decode.openai_responses.decoder import OpenAIResponsesDecoder
from .decode.whole import responses_events
from .openai_responses_input import encode_input, has_encrypted_reasoning, is_left_out
from .tool_schema import parameters_schema
from .unsupported import UNSUPPORTED, unsupported_parts

MIN_OUTPUT_TOKENS = 16
"""Smallest `max_output_tokens` that OpenAI accepts."""

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

_OWN_HOSTS = (".openai.com", ".azure.com")
"""Ends of the names of the hosts on which the API is OpenAI's own."""
_Json = dict[str, Any]


class OpenAIResponses:
    """The dialect of `POST /responses`. Has no state; `base.Dialect` documents the methods."""

    path = "/responses"
    count_path = "/responses/input_tokens"

    def check(self, request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
        yield from unsupported_parts(request, in_messages=(Audio,))
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
            "input": encode_input(request.messages, config.quirks),
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
    generation, choice = request.generation, request.tool_choice
    body: _Json = {
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "store": False,
        "max_output_tokens": generation.max_output_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "service_tier": generation.service_tier or None,
        "top_logprobs": generation.top_logprobs or None,
        "reasoning": _reasoning(request),
        "include": _include(request),
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": None if choice is None else _tool_choice(choice),
        "parallel_tool_calls": choice.parallel if request.tools and choice is not None else None,
    }
    if isinstance(request.response_format, JsonFormat | JsonSchemaFormat):
        body["text"] = {"format": _format(request.response_format)}
    return {key: value for key, value in body.items() if value is not None}


def _reasoning(request: ChatRequest) -> _Json | None:
    generation = request.generation
    reasoning = {"effort": generation.reasoning_effort, "summary": _summary(request)}
    return {key: value for key, value in reasoning.items() if value is not None} or None


def _summary(request: ChatRequest) -> str | None:
    summary = request.generation.reasoning_summary
    return None if summary == "none" else summary


def _include(request: ChatRequest) -> list[str] | None:
    generation = request.generation
    include = []
    if generation.reasoning_effort == "none":
        reasons = False
    elif generation.reasoning_effort is not None or _summary(request) is not None:
        reasons = True
    else:  # the caller's own `include` takes precedence
        is_free = "include" not in request.provider_options
        reasons = is_free and has_encrypted_reasoning(request.messages)
    if reasons:
        include.append("reasoning.encrypted_content")
    if generation.top_logprobs is not None:
        include.append("message.output_text.logprobs")
    return include or None


def _message_violations(request: ChatRequest) -> Iterator[Violation]:
    parts = (part for message in request.messages for part in message.parts)
    if all(is_left_out(part) for part in parts):
        yield Violation("messages", "must contain more than reasoning and blank answers")


def _generation_violations(request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
    generation, quirks = request.generation, config.quirks
    unsupported = "is not supported by the OpenAI Responses API"
    limit = generation.max_output_tokens
    if limit is not None and limit < MIN_OUTPUT_TOKENS and _is_own_endpoint(config):
        yield Violation(
            "generation.max_output_tokens", f"OpenAI requires at least {MIN_OUTPUT_TOKENS}"
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
        yield Violation("generation.reasoning.effort", UNSUPPORTED)
    if _summary(request) is not None and not quirks.reasoning_effort:
        yield Violation("generation.reasoning.summary", UNSUPPORTED)
    match request.response_format:
        case JsonSchemaFormat() if not quirks.json_schema:
            yield Violation("response_format.json_schema", UNSUPPORTED)
        case RegexFormat():
            yield Violation("response_format.regex", unsupported)
        case GrammarFormat():
            yield Violation("response_format.grammar", unsupported)


def _is_own_endpoint(config: ProviderConfig) -> bool:
    """Return whether a provider is OpenAI itself, and not a compatible server."""
    host = urlsplit(config.base_url).hostname or ""
    return host.endswith(_OWN_HOSTS)


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


def _tool(tool: Tool) -> _Json:
    function: _Json = {"type": "function", "name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = parameters_schema(tool)
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
