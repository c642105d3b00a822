"""The answer to a request: a scenario applied to it, independent of the wire format."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator, Mapping

import msgspec

from .errors import Failure
from .scenario import Scenario, ScenarioError, StopReason
from .state import Seals
from .words import (
    escape,
    escape_surrogates,
    fragments,
    generated_arguments,
    generated_reasoning,
    generated_text,
    split_words,
    varied_text,
)

SIGNATURE = "c2ltdWxhdGVkIHNpZ25hdHVyZQ=="
"""Stands for a provider's opaque signature of its reasoning."""


_DEFAULT_REASONING: Mapping[str, int] = dict.fromkeys(
    ("anthropic", "openai", "openrouter", "minimax", "deepseek"), 4
)
"""Number of reasoning tokens of an answer whose provider state needs some, if the scenario has no number."""
_MARKED = ("minimax", "deepseek")
"""States that are the text of the reasoning itself."""


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call, with its arguments split for the stream."""

    id: str | int
    """A number if the scenario has such ids."""
    name: str
    arguments: str
    fragments: tuple[str, ...]


class Usage(msgspec.Struct, frozen=True):
    """Token counts. `input_tokens` includes both cache figures, `output_tokens` includes reasoning."""

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    long_cache_write_tokens: int


class Answer(msgspec.Struct, frozen=True):
    """One answer. A block without content is an empty list."""

    id: str
    created: int
    """Seconds since the epoch."""
    reasoning: list[str]
    text: list[str]
    refusal: list[str]
    tool_calls: list[ToolCall]
    stop_reason: StopReason
    stop_sequence: str | None
    usage: Usage | None
    scenario: Scenario
    seals: Seals | None
    """Makes the answer's provider state. None: the answer has none."""

    @property
    def is_endless(self) -> bool:
        return self.scenario.repeat == "forever"

    @property
    def failure(self) -> Failure:
        return failure_of(self.scenario)

    @property
    def token_count(self) -> int:
        """Number of deltas of the answer; of an endless answer, in its first round."""
        calls = sum(len(call.fragments) for call in self.tool_calls)
        return len(self.reasoning) + len(self.text) + len(self.refusal) + calls

    def escaped_reasoning(self) -> Iterator[bytes]:
        return self._escaped(self.reasoning)

    def escaped_text(self) -> Iterator[bytes]:
        """Return the tokens as insides of JSON strings; without end for an endless answer."""
        if not self.is_endless:
            return self._escaped(self.text)
        again = [*self.text[1:], " " + self.text[0]]
        first = self._escaped(self.text[:1])
        return itertools.chain(first, itertools.cycle(list(self._escaped(again))))

    def interleaved_fragments(self) -> Iterator[tuple[int, str]]:
        """Yield the fragments of all calls alternately, each with the ordinal of its call."""
        rounds = itertools.zip_longest(*(call.fragments for call in self.tool_calls))
        for fragments_of_round in rounds:
            for ordinal, fragment in enumerate(fragments_of_round):
                if fragment is not None:
                    yield ordinal, fragment

    def _escaped(self, tokens: list[str]) -> Iterator[bytes]:
        return iter(escape_surrogates(tokens)) if self.scenario.surrogates else map(escape, tokens)


def compose(
    scenario: Scenario,
    *,
    answer_id: str,
    tool_names: tuple[str, ...],
    max_output_tokens: int | None,
    stop_sequence: str | None,
    input_bytes: int,
    has_tool_results: bool,
    seals: Seals | None,
) -> Answer:
    """Apply a scenario to one request. Raises ScenarioError.

    The request's limit of output tokens cuts reasoning, then text, as a provider does. Arguments of tools are
    not cut.
    """
    is_endless = scenario.repeat == "forever"
    reasoned = scenario.reasoning or _DEFAULT_REASONING.get(scenario.state, 0)
    reasoning = split_words(scenario.reasoning_text) or generated_reasoning(reasoned)
    refusal = split_words(scenario.refusal_text)
    text = split_words(scenario.text) or _generated(scenario)
    if refusal:
        reasoning, text = [], []
    if is_endless and not text:
        raise ScenarioError("scenario: `repeat=forever` needs a text")
    limit = None if is_endless else max_output_tokens
    is_over_limit = limit is not None and len(reasoning) + len(text or refusal) > limit
    if limit is not None:
        reasoning = reasoning[:limit]
        text = text[: limit - len(reasoning)]
        refusal = refusal[:limit]
    calls_tools = not (is_over_limit or refusal or (seals is not None and has_tool_results))
    tool_calls = _tool_calls(scenario, tool_names, seals) if calls_tools else []
    if seals is not None and scenario.state in _MARKED:
        reasoning = [*reasoning, seals.mark("".join(reasoning))]
    sent = len(reasoning) + len(text) + len(refusal)
    sent += sum(len(call.fragments) for call in tool_calls)
    return Answer(
        id=answer_id,
        created=int(time.time()),
        reasoning=reasoning,
        text=text,
        refusal=refusal,
        tool_calls=tool_calls,
        stop_reason=_stop_reason(
            scenario, is_over_limit=is_over_limit, refuses=bool(refusal), calls=bool(tool_calls)
        ),
        stop_sequence=stop_sequence,
        usage=_usage(scenario, input_bytes, sent, len(reasoning)) if scenario.usage else None,
        scenario=scenario,
        seals=seals,
    )


def _generated(scenario: Scenario) -> list[str]:
    if scenario.text_seed:
        return varied_text(scenario.tokens, scenario.text_seed)
    return generated_text(scenario.tokens)


def failure_of(scenario: Scenario) -> Failure:
    """Return the words of the scenario's error."""
    return Failure(scenario.error_type, scenario.error_code, scenario.error_message)


def input_tokens(scenario: Scenario, input_bytes: int) -> int:
    """Return the input tokens of a request, for its usage and for a count."""
    if scenario.input_tokens is not None:
        return scenario.input_tokens
    return max(1, input_bytes // 4) + scenario.cache_read_tokens + scenario.cache_write_tokens


def _tool_calls(
    scenario: Scenario, tool_names: tuple[str, ...], seals: Seals | None
) -> list[ToolCall]:
    calls = [(call.name, call.arguments) for call in scenario.calls] or [
        (
            tool_names[ordinal % len(tool_names)] if tool_names else f"tool_{ordinal}",
            scenario.arguments or generated_arguments(ordinal),
        )
        for ordinal in range(scenario.tools)
    ]
    return [
        ToolCall(
            id=_call_id(scenario, name, ordinal) if seals is None else seals.call_id(ordinal),
            name=name,
            arguments=arguments,
            fragments=tuple(fragments(arguments, scenario.arg_fragments)),
        )
        for ordinal, (name, arguments) in enumerate(calls)
    ]


def _call_id(scenario: Scenario, name: str, ordinal: int) -> str | int:
    match scenario.call_ids:
        case "number":
            return ordinal
        case "function":
            return f"functions.{name}:{ordinal}"
        case "opaque":
            return f"call_{uuid.uuid4().hex[:24]}"


def _stop_reason(
    scenario: Scenario, *, is_over_limit: bool, refuses: bool, calls: bool
) -> StopReason:
    if scenario.stop_reason:
        return scenario.stop_reason
    if is_over_limit:
        return "length"
    if refuses:
        return "refusal"
    return "tool_calls" if calls else "stop"


def _usage(scenario: Scenario, input_bytes: int, sent: int, reasoning: int) -> Usage:
    reasoned = scenario.reasoning_tokens
    return Usage(
        input_tokens=input_tokens(scenario, input_bytes),
        output_tokens=sent if scenario.output_tokens is None else scenario.output_tokens,
        reasoning_tokens=reasoning if reasoned is None else reasoned,
        cache_read_tokens=scenario.cache_read_tokens,
        cache_write_tokens=scenario.cache_write_tokens,
        long_cache_write_tokens=scenario.long_cache_write_tokens,
    )
