"""The request that `chat` sends and `count` counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenwire.v1.chat_pb2 import ChatRequest, GenerationConfig

from ...messages import system, user
from ...wire.requests import build_request


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The options that describe a request."""

    model: str
    prompt: str
    system: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    max_cost_microusd: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def chat_request(options: RequestOptions) -> ChatRequest:
    """Return the request that the options describe."""
    messages = [user(options.prompt)]
    if options.system is not None:
        messages.insert(0, system(options.system))
    generation = GenerationConfig(
        max_output_tokens=options.max_output_tokens, temperature=options.temperature
    )
    return build_request(
        options.model,
        messages,
        generation=generation,
        max_cost_microusd=options.max_cost_microusd,
        labels=options.labels,
    )
