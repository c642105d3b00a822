"""The request that `chat` sends and `count` counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tokenwire.v1.chat_pb2 import (
    ChatRequest,
    GenerationConfig,
    Message,
    Part,
    ReasoningEffort,
    Tool,
)

from ...messages import audio, document, image, json_format, system, user
from ...wire.requests import build_request
from ..attachments import Document, JsonSchema, Picture, Recording
from ..tool_options import ANY_ARGUMENTS, ToolOption


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The options that describe a request."""

    model: str
    prompt: str
    fallback_models: Sequence[str] = ()
    system: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    effort: str | None = None
    service_tier: str = ""
    top_logprobs: int | None = None
    documents: Sequence[Document] = ()
    images: Sequence[Picture] = ()
    recordings: Sequence[Recording] = ()
    standard_input: Document | Picture | str | None = None
    """The content that was piped into the command in addition to the prompt."""
    history: Sequence[Message] = ()
    """The messages before the prompt."""
    follow_up: Sequence[Message] = ()
    """The messages after the prompt: answers with tool calls, and their results."""
    tools: Sequence[ToolOption] = ()
    json_schema: JsonSchema | None = None
    max_cost_microusd: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def chat_request(options: RequestOptions) -> ChatRequest:
    """Return the request that the options describe."""
    parts = [document(each.source, each.media_type, title=each.title) for each in options.documents]
    parts += [image(each.source, each.media_type) for each in options.images]
    parts += [audio(each.data, each.media_type) for each in options.recordings]
    if options.standard_input is not None:
        parts.append(_part(options.standard_input))
    messages = [*options.history, user(*parts, options.prompt), *options.follow_up]
    if options.system is not None:
        messages.insert(0, system(options.system))
    generation = GenerationConfig(
        max_output_tokens=options.max_output_tokens,
        temperature=options.temperature,
        service_tier=options.service_tier,
    )
    if options.effort is not None:
        effort = f"REASONING_EFFORT_{options.effort.upper()}"
        generation.reasoning.effort = ReasoningEffort.Value(effort)
    if options.top_logprobs is not None:
        generation.logprobs.top_count = options.top_logprobs
        generation.logprobs.SetInParent()
    request = build_request(
        options.model,
        messages,
        generation=generation,
        fallback_models=options.fallback_models,
        max_cost_microusd=options.max_cost_microusd,
        labels=options.labels,
    )
    request.tools.extend(
        Tool(
            name=each.name,
            description=each.description,
            parameters_json_schema=each.schema or ANY_ARGUMENTS,
        )
        for each in options.tools
    )
    if options.json_schema is not None:
        name, schema = options.json_schema
        request.response_format.CopyFrom(
            json_format(name, json.loads(schema), fails_if_invalid=True)
        )
    return request


def _part(content: Document | Picture | str) -> Part:
    match content:
        case str():
            return Part(text=content)
        case Document():
            return document(content.source, content.media_type, title=content.title)
        case Picture():
            return image(content.source, content.media_type)
