"""The check of the Anthropic dialect: what it refuses, and that all else can be written."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.config import ProviderConfig
from tokenwire_server.providers.anthropic import AnthropicMessages
from tokenwire_server.request import (
    Audio,
    ChatRequest,
    Generation,
    GrammarFormat,
    Image,
    JsonFormat,
    JsonSchemaFormat,
    Message,
    Reasoning,
    RegexFormat,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

CONFIG = ProviderConfig(kind="anthropic", base_url="http://localhost")
DIALECT = AnthropicMessages()
HELLO = Message("user", (Text("Hello"),))
WEATHER = Tool("weather", "Tells the weather.", '{"type":"object","properties":{"n":{}}}')


def request(*messages, **fields):
    return ChatRequest(model="anthropic/claude", messages=messages or (HELLO,), **fields)


def generating(**fields):
    return request(generation=Generation(**fields))


def refused(asked):
    violations = list(DIALECT.check(asked, CONFIG))
    assert all(violation.description for violation in violations)
    return [violation.field for violation in violations]


@pytest.mark.parametrize(
    "messages",
    [
        (Message("system", (Text("Be brief."),)),),
        (Message("system", (Text("Be brief."),)), Message("assistant", (Reasoning("hm"),))),
        (Message("user", (Text(" "),)),),
    ],
)
def test_a_request_without_sendable_messages_is_refused(messages):
    assert refused(request(*messages)) == ["messages"]


def test_a_fifth_cache_hint_and_one_on_reasoning_are_refused():
    marked, not_sent = Text("x", cache_hint=True), Text(" ", cache_hint=True)
    asked = request(
        Message("system", (not_sent, marked, marked)),
        Message("user", (marked, marked)),
        Message("assistant", (Reasoning("hm", "sig", cache_hint=True),)),
        Message("user", (marked, marked)),
    )
    assert refused(asked) == ["messages[2].parts[0].cache_hint", "messages[3].parts[0].cache_hint"]


def test_all_unsupported_fields_are_refused_at_once_with_their_paths():
    asked = request(
        Message("user", (Image(uri="http://example.com/a.png"),)),
        Message("user", (Text("x"), Image(data=b"BM", media_type="image/bmp"))),
        Message("user", (Audio(b"x", "audio/wav"),)),
        Message("tool", (ToolResult("t", "", parts=(Image(uri="http://example.com/a.png"),)),)),
        generation=Generation(
            temperature=1.5,
            top_logprobs=0,
            seed=1,
            presence_penalty=0.0,
            frequency_penalty=0.1,
            stop_sequences=("ok", "\n"),
        ),
        response_format=JsonFormat(),
        provider_options={"model": "other", "service_tier": "auto"},
    )
    assert refused(asked) == [
        "messages[0].parts[0].image.uri",
        "messages[1].parts[1].image.media_type",
        "messages[2].parts[0].audio",
        "messages[3].parts[0].tool_result.parts[0].image.uri",
        "generation.temperature",
        "generation.logprobs",
        "generation.seed",
        "generation.presence_penalty",
        "generation.frequency_penalty",
        "generation.stop_sequences[1]",
        "response_format.json",
        "provider_options.model",
    ]


@pytest.mark.parametrize(
    ("format_", "path"),
    [
        (JsonFormat(), "response_format.json"),
        (RegexFormat("a+"), "response_format.regex"),
        (GrammarFormat("root ::= x"), "response_format.grammar"),
    ],
)
def test_formats_without_a_schema_are_refused(format_, path):
    assert refused(request(response_format=format_)) == [path]


def test_no_summary_of_reasoning_is_refused_unless_reasoning_is_set():
    assert refused(generating(reasoning_summary="none")) == ["generation.reasoning.summary"]


def test_a_budget_with_the_effort_none_is_refused():
    assert refused(generating(reasoning_effort="none", reasoning_budget_tokens=1024)) == [
        "generation.reasoning.budget_tokens"
    ]


@pytest.mark.parametrize(
    "reasoning",
    [
        {"reasoning_effort": "low"},
        {"reasoning_budget_tokens": 1024},
        {"reasoning_summary": "auto"},
    ],
)
def test_sampling_is_refused_with_reasoning(reasoning):
    assert refused(generating(temperature=0.9, top_p=0.9, top_k=5, **reasoning)) == [
        "generation.temperature",
        "generation.top_p",
        "generation.top_k",
    ]
    assert refused(generating(temperature=1.0, top_p=0.95, **reasoning)) == []


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("tool", "weather")])
def test_a_required_tool_call_is_refused_with_a_reasoning_budget(choice):
    budget = Generation(reasoning_budget_tokens=1024)
    forced = request(tools=(WEATHER,), tool_choice=choice, generation=budget)
    assert refused(forced) == ["tool_choice.mode"]


@pytest.mark.parametrize("key", ["model", "messages", "system", "max_tokens", "stream"])
def test_provider_options_cannot_set_reserved_keys(key):
    assert refused(request(provider_options={key: None})) == [f"provider_options.{key}"]


def test_provider_options_cannot_set_what_the_request_sets():
    options = {"tools": [], "thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}
    assert refused(request(provider_options=options)) == []
    asked = request(
        tools=(WEATHER,),
        generation=Generation(reasoning_effort="low"),
        provider_options=options,
    )
    assert refused(asked) == [
        "provider_options.tools",
        "provider_options.thinking",
        "provider_options.output_config",
    ]


TEXTS = st.text(min_size=1, max_size=20)
SCHEMAS = st.sampled_from(["", '{"type":"object"}', '{"type": "object", "x": 9007199254740993}'])
HINTS = st.sampled_from([False, False, False, True])
IDS = st.sampled_from(["toolu_1", "call-2", "a:b", ""])
PARTS = {
    "system": st.builds(Text, TEXTS, HINTS),
    "user": st.one_of(
        st.builds(Text, TEXTS, HINTS),
        st.builds(Image, uri=st.sampled_from(["https://a/b", "http://a/b"])),
        st.builds(
            Image, data=st.binary(max_size=9), media_type=st.sampled_from(["image/png", "x"])
        ),
    ),
    "assistant": st.one_of(
        st.builds(Text, TEXTS, HINTS),
        st.builds(
            Reasoning, st.text(max_size=9), st.sampled_from(["", "sig", "redacted:x"]), HINTS
        ),
        st.builds(ToolCall, IDS, st.just("f"), st.sampled_from(["{}", '{"n": 1e400}'])),
    ),
    "tool": st.builds(ToolResult, IDS, st.text(max_size=9), st.booleans(), HINTS),
}
MESSAGES = st.sampled_from(sorted(PARTS)).flatmap(
    lambda role: st.builds(
        Message, st.just(role), st.lists(PARTS[role], min_size=1, max_size=3).map(tuple)
    )
)
GENERATIONS = st.builds(
    Generation,
    max_output_tokens=st.none() | st.integers(1, 4096),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.01, 1),
    top_k=st.none() | st.integers(1, 100),
    seed=st.none() | st.none() | st.integers(),
    stop_sequences=st.lists(TEXTS, max_size=2).map(tuple),
    reasoning_effort=st.sampled_from([None, "none", "minimal", "low", "medium", "high"]),
    reasoning_budget_tokens=st.none() | st.integers(1024, 8192),
)
REQUESTS = st.builds(
    ChatRequest,
    model=st.just("anthropic/claude"),
    messages=st.lists(MESSAGES, min_size=1, max_size=4).map(tuple),
    generation=GENERATIONS,
    tools=st.lists(st.builds(Tool, st.just("f"), st.text(max_size=5), SCHEMAS), max_size=2).map(
        tuple
    ),
    tool_choice=st.sampled_from([None, ToolChoice("auto"), ToolChoice("tool", "f")]),
    response_format=st.sampled_from(
        [None, None, JsonFormat(), JsonSchemaFormat("n", '{"type":"object"}')]
    ),
    provider_options=st.dictionaries(
        st.sampled_from(["service_tier", "thinking", "model", "top_k"]), st.none(), max_size=1
    ),
)


@given(REQUESTS)
def test_a_request_that_passes_the_check_is_written_completely(asked):
    violations = list(DIALECT.check(asked, CONFIG))
    assert len({violation.field for violation in violations}) == len(violations)
    if violations:
        return
    written: dict[str, Any] = json.loads(
        msgspec.json.encode(DIALECT.body(asked, "claude", CONFIG, None))
    )
    texts = [part.text for m in asked.messages for part in m.parts if isinstance(part, Text)]
    blocks = [*written.get("system", []), *(b for m in written["messages"] for b in m["content"])]
    sent = [block["text"].rstrip() for block in blocks if block["type"] == "text"]
    assert sorted(sent) == sorted(text.rstrip() for text in texts if text.strip())
    assert all(message["content"] for message in written["messages"])
    budget = asked.generation.reasoning_budget_tokens
    assert budget is None or written["max_tokens"] > budget
