"""Generation arguments as keywords: the fields of GenerationConfig."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict, cast

from tokenwire.v1.chat_pb2 import ChatRequest, GenerationConfig, LogprobsConfig, ReasoningConfig

from .._checks import check_list
from .mappings import message_of

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much the model reasons."""


class GenerationFields(TypedDict, total=False):
    """Fields of GenerationConfig as keyword arguments. None is the provider's default."""

    max_output_tokens: int | None
    """Maximum number of tokens to generate, including reasoning."""
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    stop_sequences: str | Iterable[str] | None
    """Texts that end the answer, or one such text."""
    reasoning: Effort | ReasoningConfig | Mapping[str, object] | None
    """The effort, or a mapping such as `{"effort": "high", "budget_tokens": 2048, "summary": "auto"}`."""
    logprobs: bool | int | LogprobsConfig | Mapping[str, object] | None
    """True for the log probability of each token, or the number of most likely tokens at each position."""
    service_tier: str | None


def add_generation(request: ChatRequest, fields: Mapping[str, object]) -> None:
    """Set the fields of `generation` that are given as keywords.

    Raises:
        TypeError, ValueError: a value is wrong, or a field is already set.
    """
    given = {
        name: fields[name]
        for name in GenerationConfig.DESCRIPTOR.fields_by_name
        if fields.get(name) is not None
    }
    already = {field.name for field, _ in request.generation.ListFields()}
    for name, value in given.items():
        if name in already:
            raise ValueError(f"{name}: is given twice, also in generation")
        converted = _field(name, value)
        try:
            request.generation.MergeFrom(GenerationConfig(**{name: converted}))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None


def _field(name: str, value: object) -> object:
    match name:
        case "stop_sequences":
            if isinstance(value, str):
                return [value]
            return check_list(cast("Iterable[str]", value), name)
        case "reasoning":
            mapping = {"effort": value} if isinstance(value, str) else value
            return message_of(ReasoningConfig, mapping, name)
        case "logprobs" if value is False:
            return None
        case "logprobs" if isinstance(value, int):
            return LogprobsConfig(top_count=0 if value is True else value)
        case "logprobs":
            return message_of(LogprobsConfig, value, name)
    return value
