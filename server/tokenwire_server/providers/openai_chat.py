"""Encoding of requests for OpenAI Chat Completions, for OpenAI and all compatible servers.

https://platform.openai.com/docs/api-reference/chat/create, and `openai.types.chat` of the official SDK.
The differences between servers are data: `config.Quirks`.

`tools[].function.strict` is not set, which means false. Otherwise the caller's schemas would have to be of
the subset that strict tools allow. A schema of an object gets `properties`, because OpenAI refuses one
without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from ..config import ProviderConfig, Quirks
from ..request import (
    ChatRequest,
    GrammarFormat,
    JsonFormat,
    JsonSchemaFormat,
    RegexFormat,
    ResponseFormat,
    Tool,
    ToolChoice,
    Violation,
)
from .decode.openai_chat.decoder import OpenAIChatDecoder
from .decode.whole import chat_events
from .openai_chat_messages import check_messages, encode_messages
from .tool_schema import parameters_schema
from .unsupported import UNSUPPORTED

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
_SAMPLING_FIELDS = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


class OpenAIChat:
    """The dialect of `POST /chat/completions`."""

    path = "/chat/completions"

    def check(self, request: ChatRequest, config: ProviderConfig) -> Iterator[Violation]:
        yield from check_messages(request, config.quirks)
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
            **_messages(request, config.quirks),
            "stream": True,
            **_settings(request, config.quirks, model),
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


def _messages(request: ChatRequest, quirks: Quirks) -> dict[str, Any]:
    """Return the messages, and the fields that make the server continue a last assistant message."""
    messages = list(encode_messages(request.messages, quirks))
    keys: dict[str, Any] = {"messages": messages}
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant" and not last.get("tool_calls"):
        if quirks.prefill == "prefix":
            last["prefix"] = True
        elif quirks.prefill == "continue_final_message":
            keys |= {"continue_final_message": True, "add_generation_prompt": False}
    return keys


def _settings(request: ChatRequest, quirks: Quirks, model: str = "") -> dict[str, Any]:
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
        "service_tier": generation.service_tier or None,
        "logprobs": None if generation.top_logprobs is None else True,
        "top_logprobs": generation.top_logprobs or None,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request.tool_choice),
        "parallel_tool_calls": _parallel(request),
        "response_format": _response_format(request.response_format),
        **_constraint(request.response_format, quirks),
    }
    if any(fnmatchcase(model, pattern) for pattern in quirks.fixed_sampling_models):
        settings |= dict.fromkeys(_SAMPLING_FIELDS)
    return {key: value for key, value in settings.items() if value is not None}


def _stream_options(quirks: Quirks) -> dict[str, bool] | None:
    options = {}
    if quirks.usage_option:
        options["include_usage"] = True
    if quirks.continuous_usage:
        options["continuous_usage_stats"] = True
    return options or None


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = parameters_schema(tool)
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice | None) -> str | dict[str, Any] | None:
    if choice is None:
        return None
    if choice.mode == "tool":
        return {"type": "function", "function": {"name": choice.tool_name}}
    return choice.mode


def _parallel(request: ChatRequest) -> bool | None:
    """Return `parallel_tool_calls`, which OpenAI refuses without tools."""
    return request.tool_choice.parallel if request.tools and request.tool_choice else None


def _constraint(response_format: ResponseFormat | None, quirks: Quirks) -> dict[str, Any]:
    """Return the keys for a regular expression or a grammar. Empty if the server has none for it."""
    match response_format:
        case RegexFormat(text):
            kind = "regex"
        case GrammarFormat(text):
            kind = "grammar"
        case _:
            return {}
    match quirks.constraints, kind:
        case "structured_outputs", _:
            return {"structured_outputs": {kind: text}}
        case "guided", _:
            return {f"guided_{kind}": text}
        case "sglang", _:
            return {"regex" if kind == "regex" else "ebnf": text}
        case "grammar", "grammar":
            return {"grammar": text}
        case _:
            return {}


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


def _check_generation(request: ChatRequest, quirks: Quirks) -> Iterator[Violation]:
    generation = request.generation
    if generation.top_k is not None and not quirks.top_k:
        yield Violation("generation.top_k", UNSUPPORTED)
    if len(generation.stop_sequences) > MAX_STOP_SEQUENCES:
        yield Violation(
            "generation.stop_sequences",
            f"OpenAI Chat Completions accepts at most {MAX_STOP_SEQUENCES}",
        )
    if generation.reasoning_effort is not None and not quirks.reasoning_effort:
        yield Violation("generation.reasoning.effort", UNSUPPORTED)
    if generation.reasoning_summary not in (None, "none"):
        yield Violation("generation.reasoning.summary", UNSUPPORTED)
    if generation.reasoning_budget_tokens is not None:
        hint = "; use generation.reasoning.effort" if quirks.reasoning_effort else ""
        yield Violation("generation.reasoning.budget_tokens", f"{UNSUPPORTED}{hint}")
    if isinstance(request.response_format, JsonSchemaFormat) and not quirks.json_schema:
        yield Violation("response_format.json_schema", UNSUPPORTED)
    is_constrained = bool(_constraint(request.response_format, quirks))
    if isinstance(request.response_format, RegexFormat | GrammarFormat) and not is_constrained:
        kind = "regex" if isinstance(request.response_format, RegexFormat) else "grammar"
        yield Violation(f"response_format.{kind}", UNSUPPORTED)


def _check_provider_options(request: ChatRequest, quirks: Quirks) -> Iterator[Violation]:
    if not request.provider_options:
        return
    own_keys = RESERVED_KEYS | _settings(request, quirks).keys() | _messages(request, quirks).keys()
    if request.generation.max_output_tokens is not None:
        own_keys |= _LIMIT_FIELDS
    for key in request.provider_options:
        path = f"provider_options.{key}"
        if key in own_keys:
            yield Violation(path, "is set by Tokenwire for this request; remove it")
        elif key in _UNSUPPORTED_KEYS:
            yield Violation(path, _UNSUPPORTED_KEYS[key])
