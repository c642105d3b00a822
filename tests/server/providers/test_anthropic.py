"""Requests as the Anthropic dialect writes them."""

import base64
import json
import re
import types
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Annotated, Literal, Required, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from pydantic import TypeAdapter
from typing_extensions import is_typeddict

from tokenwire_server.config import ProviderConfig
from tokenwire_server.providers.anthropic import AnthropicMessages
from tokenwire_server.request import (
    ChatRequest,
    Document,
    Generation,
    Image,
    JsonSchemaFormat,
    Message,
    Reasoning,
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
SAMPLING = {"temperature", "top_p", "top_k"}
"""Keys of API version 2023-06-01. The SDK's types are of version 2026-10-21 and lack them."""


@cache  # it takes long to build, and not every worker needs it
def sdk_body():
    return TypeAdapter(MessageCreateParamsStreaming)


def request(*messages, **fields):
    return ChatRequest(model="anthropic/claude", messages=messages or (HELLO,), **fields)


def generating(**fields):
    return request(generation=Generation(**fields))


def body(asked, *, max_output_tokens=None):
    """Return the body as the provider reads it. The request must pass the check and fit the SDK's types."""
    assert list(DIALECT.check(asked, CONFIG)) == []
    encoded = msgspec.json.encode(DIALECT.body(asked, "claude", CONFIG, max_output_tokens))
    written = json.loads(encoded)
    typed = {key: value for key, value in written.items() if key not in SAMPLING}
    sdk_body().validate_python(typed)
    assert names_only_what_the_type_names(typed, MessageCreateParamsStreaming)
    return written


def refused(asked):
    violations = list(DIALECT.check(asked, CONFIG))
    assert all(violation.description for violation in violations)
    return [violation.field for violation in violations]


def names_only_what_the_type_names(value, annotation):
    """Return whether all keys of a value are in the SDK's type, at any depth. Pydantic does not
    check this.
    """
    if is_typeddict(annotation):
        hints = get_type_hints(annotation, include_extras=True)
        return (
            isinstance(value, dict)
            and all(
                key in hints and names_only_what_the_type_names(value[key], hints[key])
                for key in value
            )
            and all(key in value for key, hint in hints.items() if get_origin(hint) is Required)
        )
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(names_only_what_the_type_names(value, argument) for argument in arguments)
    if origin in (Required, Annotated):
        return names_only_what_the_type_names(value, arguments[0])
    if origin is Literal:
        return value in arguments
    if origin in (Iterable, Sequence, list):
        return isinstance(value, list) and all(
            names_only_what_the_type_names(item, arguments[0]) for item in value
        )
    return isinstance(value, origin or annotation)


def test_the_smallest_request():
    assert body(request()) == {
        "model": "claude",
        "max_tokens": 8192,
        "stream": True,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    }


def test_a_key_that_the_sdk_lacks_is_detected_by_these_tests():
    written = body(request())
    written["messages"][0]["content"][0]["colour"] = "red"
    assert not names_only_what_the_type_names(written, MessageCreateParamsStreaming)


def test_system_messages_are_moved_to_the_front():
    written = body(
        request(
            Message("system", (Text("Be brief."), Text("Be kind.", cache_hint=True))),
            HELLO,
            Message("system", (Text("Be honest."),)),
        )
    )
    assert written["system"] == [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be honest."},
    ]
    assert [message["role"] for message in written["messages"]] == ["user"]


def test_images_are_sent_as_url_or_data():
    picture = bytes(range(256))
    written = body(
        request(
            Message(
                "user",
                (
                    Image(uri="https://example.com/a.png"),
                    Image(data=picture, media_type="image/png"),
                ),
            )
        )
    )
    by_uri, by_value = written["messages"][0]["content"]
    assert by_uri == {
        "type": "image",
        "source": {"type": "url", "url": "https://example.com/a.png"},
    }
    assert by_value["source"]["media_type"] == "image/png"
    assert base64.b64decode(by_value["source"]["data"]) == picture


def test_a_conversation_with_tools_keeps_every_digit_of_the_arguments():
    arguments = '{"n": 9007199254740993, "x": 1.10}'
    asked = request(
        HELLO,
        Message("assistant", (Text("Let me look."), ToolCall("toolu_1", "weather", arguments))),
        Message(
            "tool",
            (
                ToolResult("toolu_1", "sunny"),
                ToolResult("toolu_2", "no such town", is_error=True),
                ToolResult("toolu_3", ""),
                ToolResult("toolu_4", "", is_error=True),
            ),
        ),
        tools=(WEATHER,),
    )
    written = body(asked)
    assert written["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look."},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "weather",
                    "input": json.loads(arguments),
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": "no such town",
                    "is_error": True,
                },
                {"type": "tool_result", "tool_use_id": "toolu_3"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_4",
                    "content": "The tool failed.",
                    "is_error": True,
                },
            ],
        },
    ]
    encoded = msgspec.json.encode(DIALECT.body(asked, "claude", CONFIG, None))
    assert arguments.encode() in encoded


def test_reasoning_is_sent_back_only_with_its_signature():
    written = body(
        request(
            HELLO,
            Message(
                "assistant",
                (
                    Reasoning("I think.", "c2ln"),
                    Reasoning("", "aGlkZGVu"),
                    Reasoning("", "redacted:ZGF0YQ=="),
                    Reasoning("Shown.", "redacted:bm90"),
                    Reasoning("another provider's"),
                    Text("Hi."),
                ),
            ),
        )
    )
    assert written["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "I think.", "signature": "c2ln"},
        {"type": "thinking", "thinking": "", "signature": "aGlkZGVu"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "thinking", "thinking": "Shown.", "signature": "redacted:bm90"},
        {"type": "text", "text": "Hi."},
    ]


def test_a_message_of_unsigned_reasoning_alone_is_left_out():
    written = body(request(HELLO, Message("assistant", (Reasoning("hm"),)), HELLO))
    assert [message["role"] for message in written["messages"]] == ["user", "user"]


def test_cache_hints_mark_the_blocks_that_have_them():
    written = body(
        request(
            Message("user", (Text("a", cache_hint=True), Text("b"))),
            Message("assistant", (ToolCall("t", "weather", "{}", cache_hint=True),)),
            Message("tool", (ToolResult("t", "sunny", cache_hint=True),)),
            Message("user", (Image(uri="https://example.com/a.png", cache_hint=True),)),
        )
    )
    marked = [
        block["type"]
        for message in written["messages"]
        for block in message["content"]
        if block.get("cache_control") == {"type": "ephemeral"}
    ]
    assert marked == ["text", "tool_use", "tool_result", "image"]


def test_sampling_and_stop_sequences_are_written():
    written = body(
        generating(temperature=0.5, top_p=0.9, top_k=40, stop_sequences=("END", "\n\nQ:"))
    )
    assert {key: written[key] for key in SAMPLING} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
    }
    assert written["stop_sequences"] == ["END", "\n\nQ:"]


def test_max_tokens_is_the_callers_then_the_models_then_the_providers():
    assert body(generating(max_output_tokens=7), max_output_tokens=64_000)["max_tokens"] == 7
    assert body(request(), max_output_tokens=64_000)["max_tokens"] == 64_000
    assert body(request())["max_tokens"] == CONFIG.default_max_output_tokens


def test_the_reasoning_budget_is_added_to_a_default_max_tokens():
    within = body(generating(reasoning_budget_tokens=8191))
    beyond = body(generating(reasoning_budget_tokens=8192))
    assert within["thinking"] == {"type": "enabled", "budget_tokens": 8191}
    assert within["max_tokens"] == 8192
    assert beyond["max_tokens"] == 8192 + 8192


def test_a_reasoning_budget_that_reaches_the_callers_limit_is_refused():
    budget = {"reasoning_budget_tokens": 2048}
    assert body(generating(max_output_tokens=2049, **budget))["max_tokens"] == 2049
    assert refused(generating(max_output_tokens=2048, **budget)) == [
        "generation.reasoning.budget_tokens"
    ]


@pytest.mark.parametrize(
    ("effort", "thinking", "output_config"),
    [
        ("none", {"type": "disabled"}, None),
        ("minimal", {"type": "adaptive"}, {"effort": "low"}),
        ("low", {"type": "adaptive"}, {"effort": "low"}),
        ("medium", {"type": "adaptive"}, {"effort": "medium"}),
        ("high", {"type": "adaptive"}, {"effort": "high"}),
        ("xhigh", {"type": "adaptive"}, {"effort": "xhigh"}),
        ("max", {"type": "adaptive"}, {"effort": "max"}),
    ],
)
def test_an_effort_becomes_adaptive_thinking(effort, thinking, output_config):
    written = body(generating(reasoning_effort=effort))
    assert written["thinking"] == thinking
    assert written.get("output_config") == output_config


def test_an_effort_and_a_budget_can_be_combined():
    written = body(generating(reasoning_effort="high", reasoning_budget_tokens=1024))
    assert written["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert written["output_config"] == {"effort": "high"}


@pytest.mark.parametrize(
    ("settings", "thinking"),
    [
        ({"reasoning_summary": "auto"}, {"type": "adaptive", "display": "summarized"}),
        (
            {"reasoning_summary": "none", "reasoning_effort": "low"},
            {"type": "adaptive", "display": "omitted"},
        ),
        (
            {"reasoning_summary": "detailed", "reasoning_budget_tokens": 1024},
            {"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
        ),
        ({"reasoning_summary": "concise", "reasoning_effort": "none"}, {"type": "disabled"}),
    ],
)
def test_a_summary_of_the_reasoning_becomes_its_display(settings, thinking):
    assert body(generating(**settings))["thinking"] == thinking


def test_the_service_tier_is_passed_on():
    assert body(generating(service_tier="standard_only"))["service_tier"] == "standard_only"


def test_documents_are_sent_as_url_data_or_text():
    pdf = bytes(range(256))
    written = body(
        request(
            Message(
                "user",
                (
                    Document(uri="https://example.com/a.pdf"),
                    Document(data=pdf, media_type="application/pdf", title="A", cache_hint=True),
                    Document(data="Ä.".encode(), media_type="text/plain"),
                ),
            )
        )
    )
    assert written["messages"][0]["content"] == [
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        {
            "type": "document",
            "source": {
                "type": "base64",
                "media_type": "application/pdf",
                "data": base64.b64encode(pdf).decode(),
            },
            "title": "A",
            "cache_control": {"type": "ephemeral"},
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "Ä."},
        },
    ]


def test_a_tool_result_can_have_several_parts():
    picture = Image(uri="https://example.com/a.png")
    text = Document(data=b"x", media_type="text/plain")
    parts = (Text("b"), Text(" "), picture, text)
    results = (ToolResult("t", "a", parts=parts), ToolResult("u", "", parts=(Text("c"),)))
    written = body(
        request(
            HELLO,
            Message("assistant", (ToolCall("t", "f", "{}"), ToolCall("u", "f", "{}"))),
            Message("tool", results),
        )
    )
    first, second = written["messages"][2]["content"]
    assert [block["type"] for block in first["content"]] == ["text", "text", "image", "document"]
    assert [block.get("text") for block in first["content"][:2]] == ["a", "b"]
    assert second["content"] == [{"type": "text", "text": "c"}]


def sent_ids(*ids):
    calls = Message("assistant", tuple(ToolCall(id_, "f", "{}") for id_ in ids))
    results = Message("tool", tuple(ToolResult(id_, "x") for id_ in ids))
    _, use, result = body(request(HELLO, calls, results))["messages"]
    used = [block["id"] for block in use["content"]]
    assert used == [block["tool_use_id"] for block in result["content"]]
    return used


def test_ids_that_the_provider_does_not_accept_are_rewritten_alike_and_stay_different():
    foreign = ["functions.look:0", "functions.look:1", "a b", "ä", "a:b", "a.b"]
    rewritten = sent_ids(*foreign)
    ids = {*foreign, *rewritten, "a_b"}
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", id_) for id_ in rewritten)
    assert len(set(sent_ids(*ids))) == len(ids)


def test_ids_that_the_provider_accepts_are_not_rewritten():
    assert sent_ids("toolu_1", "call-2") == ["toolu_1", "call-2"]


def test_thinking_at_the_end_is_left_out():
    thoughts = (Reasoning("Hm.", "c2ln"), Reasoning("", "redacted:ZGF0YQ=="))
    turn = Message("assistant", thoughts)
    assert [m["role"] for m in body(request(HELLO, turn, HELLO))["messages"]] == [
        "user",
        "assistant",
        "user",
    ]
    assert [m["role"] for m in body(request(HELLO, turn))["messages"]] == ["user"]
    [_, last] = body(request(HELLO, Message("assistant", (Text("Well \n"), *thoughts))))["messages"]
    assert last["content"] == [{"type": "text", "text": "Well"}]


def test_an_error_with_an_image_is_sent_as_a_text_before_it():
    image = Image(uri="https://e.example/a")
    result = ToolResult("toolu_1", "no", is_error=True, parts=(image,))
    [message] = body(request(Message("tool", (result,))))["messages"]
    [block] = message["content"]
    assert [piece.get("text") for piece in block["content"]] == ["The tool failed.", "no", None]
    assert "is_error" not in block


@pytest.mark.parametrize("empty", [(), (Text(" \n"),), (Reasoning("hm"), Text("\t"))])
def test_an_empty_answer_can_be_sent_back(empty):
    written = body(request(HELLO, Message("assistant", empty), HELLO))
    assert [message["role"] for message in written["messages"]] == ["user", "user"]


def test_blank_texts_are_left_out():
    blank = Text(" \n")
    written = body(
        request(
            Message("system", (blank, Text("Be brief."))),
            Message("user", (blank, Text(" a "))),
            Message("assistant", (Text("b"), blank, ToolCall("t", "f", "{}"))),
            Message("tool", (ToolResult("t", " "),)),
        )
    )
    assert written["system"] == [{"type": "text", "text": "Be brief."}]
    user, assistant, tool = (message["content"] for message in written["messages"])
    assert user == [{"type": "text", "text": " a "}]
    assert [block["type"] for block in assistant] == ["text", "tool_use"]
    assert tool == [{"type": "tool_result", "tool_use_id": "t"}]


def test_white_space_at_the_end_of_an_answer_that_the_model_continues_is_removed():
    begun = Message("assistant", (Text("Once upon \n"), Text(" ")))
    written = body(request(HELLO, begun, HELLO, begun))
    assert [block["text"] for block in written["messages"][1]["content"]] == ["Once upon \n"]
    assert [block["text"] for block in written["messages"][3]["content"]] == ["Once upon"]


def test_schemas_of_tools_are_written_unchanged():
    asked = request(tools=(WEATHER, Tool("now", "", "")))
    assert body(asked)["tools"] == [
        {
            "name": "weather",
            "description": "Tells the weather.",
            "input_schema": {"type": "object", "properties": {"n": {}}},
        },
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    ]


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (ToolChoice("auto"), {"type": "auto"}),
        (ToolChoice("none"), {"type": "none"}),
        (ToolChoice("required"), {"type": "any"}),
        (ToolChoice("tool", "weather"), {"type": "tool", "name": "weather"}),
        (ToolChoice("auto", parallel=False), {"type": "auto", "disable_parallel_tool_use": True}),
        (
            ToolChoice("required", parallel=True),
            {"type": "any", "disable_parallel_tool_use": False},
        ),
        (ToolChoice("none", parallel=False), {"type": "none"}),
    ],
)
def test_a_tool_choice_is_written_in_anthropics_format(choice, written):
    assert body(request(tools=(WEATHER,), tool_choice=choice))["tool_choice"] == written


def test_the_schema_of_the_answer_is_written_unchanged():
    written = body(
        request(
            response_format=JsonSchemaFormat("town", '{"type":"object","maximum":1e400}'),
            generation=Generation(reasoning_effort="low"),
        )
    )
    assert written["output_config"]["effort"] == "low"
    assert written["output_config"]["format"]["type"] == "json_schema"


def test_provider_options_are_merged_into_the_top_level():
    written = body(request(provider_options={"service_tier": "auto", "metadata": {"user_id": "u"}}))
    assert written["service_tier"] == "auto"
    assert written["metadata"] == {"user_id": "u"}
