"""The request that a command line stands for: the same whether it is sent or only counted."""

from __future__ import annotations

from tokenwire.v1.chat_pb2 import ChatRequest, GenerationConfig

from ...messages import system, user
from ...request import build_request
from ..app import Arguments


def chat_request(arguments: Arguments) -> ChatRequest:
    """The arguments of `chat` and `count` as a request."""
    messages = [user(arguments.prompt)]
    if arguments.system is not None:
        messages.insert(0, system(arguments.system))
    generation = GenerationConfig(
        max_output_tokens=arguments.max_output_tokens, temperature=arguments.temperature
    )
    return build_request(
        arguments.model,
        messages,
        generation=generation,
        max_cost_microusd=arguments.max_cost_microusd,
        labels=arguments.labels,
    )
