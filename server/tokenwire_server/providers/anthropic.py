"""Encoding of requests for Anthropic Messages. https://platform.claude.com/docs/en/api/messages"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ..config import ProviderConfig
from ..request import (
    ChatRequest,
    GrammarFormat,
    JsonFormat,
    JsonSchemaFormat,
    RegexFormat,
    Tool,
    ToolChoice,
    Violation,
)
from .anthropic_messages import check_messages, conversation_messages, system_blocks
from .decode.anthropic.decoder import AnthropicDecoder
from .decode.whole import anthropic_events

RESERVED_KEYS = frozenset({"model", "messages", "system", "max_tokens", "stream"})
"""Keys of the body that `provider_options` may never set, even if the request does not need them."""
COUNTED = frozenset(
    {
        "cache_control",
        "messages",
        "model",
        "output_config",
        "speed",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
"""Keys of the body that the counting endpoint accepts; it refuses all others.
https://platform.claude.com/docs/en/api/messages/count_tokens"""
NOT_COUNTED = frozenset({"container"})
"""Keys that add input, such as a container's skills, that the counting endpoint does not accept."""
# There is no "minimal"; "low" is the lowest effort.
_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
_DISPLAYS = {
    "none": "omitted",
    "auto": "summarized",
    "concise": "summarized",
    "detailed": "summarized",
}
_TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any", "tool": "tool"}
_UNSUPPORTED_FORMATS: dict[type, str] = {
    JsonFormat: "json",
    RegexFormat: "regex",
    GrammarFormat: "grammar",
}
_NO_ARGUMENTS = '{"type":"object","properties":{}}'


class AnthropicMessages:
    """The dialect of `POST /v1/messages`.

    System messages are moved to the front, in order. Results of tools become user messages, as this API
    requires. Consecutive messages of one role are sent as they are; the provider joins them. Reasoning is
    sent if it has a signature, or if this provider sent it without one. Blank text is not sent, and neither
    are messages of which nothing is left. Ids of tool calls that the provider would not accept are
    rewritten, alike in calls and results.

    An effort also turns adaptive thinking on, because the effort alone has no effect on models that do not
    think by default. A summary of the reasoning turns it on, too. The effort "none" turns thinking off.
    A budget enables thinking up to that budget. Models support different combinations of these; the
    provider's error names what a model does not support. Without a summary setting, the model's default
    decides how much of its reasoning is shown.

    temperature, top_p and top_k exist in API version 2023-06-01. Version 2026-10-21 refuses them for every
    model, and models from Claude Opus 4.7 on refuse them in both versions.
    https://platform.claude.com/docs/en/api/migration-2026-10-21
    """

    path = "/v1/messages"
    count_path = "/v1/messages/count_tokens"

    def check(self, request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:  # noqa: ARG002  # as in Dialect
        yield from check_messages(request.messages)
        yield from _check_sampling(request)
        yield from _check_reasoning(request)
        yield from _check_response_format(request)
        yield from _check_provider_options(request)

    def body(
        self,
        request: ChatRequest,
        model: str,
        config: ProviderConfig,
        max_output_tokens: int | None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": _max_tokens(request, config, max_output_tokens),
            "stream": True,
        }
        if system := system_blocks(request.messages):
            body["system"] = system
        body["messages"] = conversation_messages(request.messages)
        return {**body, **_settings(request), **request.provider_options}

    def count_body(self, body: dict[str, Any]) -> dict[str, Any] | None:
        if not NOT_COUNTED.isdisjoint(body):
            return None
        return {key: value for key, value in body.items() if key in COUNTED}

    def decoder(self, config: ProviderConfig, provider: str = "") -> AnthropicDecoder:  # noqa: ARG002  # the same for all servers
        return AnthropicDecoder(provider=provider)

    def events_of(self, answer: Mapping[str, Any]) -> bytes | None:
        return anthropic_events(answer)


def _max_tokens(request: ChatRequest, config: ProviderConfig, max_output_tokens: int | None) -> int:
    """Return the limit that this API requires: the caller's, else the model's, else the provider's default.

    The limit includes thinking and must be above the thinking budget. So the budget is added to the
    default if needed; the limit of the caller or the model is never changed.
    """
    requested = request.generation.max_output_tokens
    if requested is not None:
        return requested
    if max_output_tokens is not None:
        return max_output_tokens
    budget = request.generation.reasoning_budget_tokens or 0
    default = config.default_max_output_tokens
    return default if budget < default else budget + default


def _settings(request: ChatRequest) -> dict[str, Any]:
    """Return the keys of the body that only some requests have."""
    generation = request.generation
    settings: dict[str, Any] = {
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "stop_sequences": list(generation.stop_sequences) or None,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request.tool_choice),
        "service_tier": generation.service_tier or None,
        "thinking": _thinking(request),
        "output_config": _output_config(request),
    }
    return {key: value for key, value in settings.items() if value is not None}


def _thinking(request: ChatRequest) -> dict[str, Any] | None:
    generation = request.generation
    if generation.reasoning_effort == "none":
        return {"type": "disabled"}
    display = {}
    if generation.reasoning_summary is not None:
        display["display"] = _DISPLAYS[generation.reasoning_summary]
    if generation.reasoning_budget_tokens is not None:
        budget = generation.reasoning_budget_tokens
        return {"type": "enabled", "budget_tokens": budget, **display}
    if generation.reasoning_effort is not None or display:
        return {"type": "adaptive", **display}
    return None


def _output_config(request: ChatRequest) -> dict[str, Any] | None:
    config: dict[str, Any] = {}
    effort = request.generation.reasoning_effort
    if effort is not None and effort != "none":
        config["effort"] = _EFFORTS[effort]
    if isinstance(request.response_format, JsonSchemaFormat):
        schema = msgspec.Raw(request.response_format.schema_json)
        config["format"] = {"type": "json_schema", "schema": schema}
    return config or None


def _tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    written["input_schema"] = msgspec.Raw(tool.parameters_json_schema or _NO_ARGUMENTS)
    return written


def _tool_choice(choice: ToolChoice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    written: dict[str, Any] = {"type": _TOOL_CHOICES[choice.mode]}
    if choice.mode == "tool":
        written["name"] = choice.tool_name
    if choice.parallel is not None and choice.mode != "none":
        written["disable_parallel_tool_use"] = not choice.parallel
    return written


def _check_sampling(request: ChatRequest) -> Iterator[Violation]:
    generation = request.generation
    if generation.temperature is not None and not 0 <= generation.temperature <= 1:
        yield Violation("generation.temperature", "Anthropic accepts 0 to 1")
    if generation.top_logprobs is not None:
        yield Violation("generation.logprobs", "is not supported by Anthropic")
    for name in ("seed", "presence_penalty", "frequency_penalty"):
        if getattr(generation, name) is not None:
            yield Violation(f"generation.{name}", "is not supported by Anthropic")
    for i, sequence in enumerate(generation.stop_sequences):
        if not sequence.strip():
            yield Violation(
                f"generation.stop_sequences[{i}]", "Anthropic requires more than white space"
            )


def _check_reasoning(request: ChatRequest) -> Iterator[Violation]:
    """Yield settings that are incompatible with thinking.

    https://platform.claude.com/docs/en/build-with-claude/extended-thinking, Feature compatibility.
    """
    generation = request.generation
    budget = generation.reasoning_budget_tokens
    if generation.reasoning_effort == "none":
        if budget is not None:
            yield Violation(
                "generation.reasoning.budget_tokens", "must not be set with the effort NONE"
            )
        return
    summary = generation.reasoning_summary
    if budget is None and generation.reasoning_effort is None:
        if summary is None:
            return
        if summary == "none":
            yield Violation(
                "generation.reasoning.summary", "Anthropic requires an effort or a budget with NONE"
            )
            return
    if generation.temperature is not None and 0 <= generation.temperature < 1:
        yield Violation("generation.temperature", "Anthropic accepts only 1 with reasoning")
    if generation.top_p is not None and generation.top_p < 0.95:
        yield Violation("generation.top_p", "Anthropic accepts only 0.95 to 1 with reasoning")
    if generation.top_k is not None:
        yield Violation("generation.top_k", "is not supported by Anthropic with reasoning")
    if budget is None:
        return
    if generation.max_output_tokens is not None and budget >= generation.max_output_tokens:
        yield Violation(
            "generation.reasoning.budget_tokens",
            "must be less than max_output_tokens, which includes reasoning",
        )
    if request.tool_choice is not None and request.tool_choice.mode in ("required", "tool"):
        yield Violation(
            "tool_choice.mode", "Anthropic cannot require a tool call with a reasoning budget"
        )


def _check_response_format(request: ChatRequest) -> Iterator[Violation]:
    name = _UNSUPPORTED_FORMATS.get(type(request.response_format))
    if name is not None:
        yield Violation(
            f"response_format.{name}", "is not supported by Anthropic; set json_schema instead"
        )


def _check_provider_options(request: ChatRequest) -> Iterator[Violation]:
    own_keys = RESERVED_KEYS | _settings(request).keys()
    for key in request.provider_options:
        if key in own_keys:
            path = f"provider_options.{key}"
            yield Violation(path, "is set by Tokenwire for this request; remove it")
