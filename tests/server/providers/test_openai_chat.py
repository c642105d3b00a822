"""Requests as they are written for Chat Completions."""

import json

import msgspec
import pytest
from openai.types.chat import ChatCompletionContentPartParam, completion_create_params
from pydantic import TypeAdapter

from tokenwire_server.config import OPENAI_QUIRKS, ProviderConfig, Quirks
from tokenwire_server.providers.decode.base import Complete
from tokenwire_server.providers.openai_chat import OpenAIChat
from tokenwire_server.request import (
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

DIALECT = OpenAIChat()
HELLO = (Message("user", (Text("Hello"),)),)
SCHEMA = '{"type":"object","properties":{"n":{"const":9007199254740993}}}'


def config(**quirks):
    return ProviderConfig(kind="openai-chat", base_url="http://p.test/v1", quirks=Quirks(**quirks))


OPENAI = ProviderConfig(kind="openai-chat", base_url="https://p.test/v1", quirks=OPENAI_QUIRKS)


def request(*messages, **fields):
    return ChatRequest(model="p/m", messages=messages or HELLO, **fields)


def generating(**fields):
    return request(generation=Generation(**fields))


REGEX = request(response_format=RegexFormat("a+"))
GRAMMAR = request(response_format=GrammarFormat("root ::= a"))


def written(asked, where=None):
    where = where or config()
    assert list(DIALECT.check(asked, where)) == []
    return json.loads(msgspec.json.encode(DIALECT.body(asked, "m", where, 100)))


def violations(asked, where=None):
    return [violation.field for violation in DIALECT.check(asked, where or config())]


def messages(*given, where=None):
    return written(request(*given), where)["messages"]


EVERYTHING = request(
    Message("system", (Text("Be brief."),)),
    Message("user", (Text("What is it?"), Image(uri="https://x.test/a.png"), Image(data=b"\x89PNG", media_type="image/png"))),
    Message("assistant", (Reasoning("Hm.", "sig"), Text("Let me see."), ToolCall("c1", "look", '{"n":1}'), ToolCall("c2", "look", "{}"))),
    Message("tool", (ToolResult("c1", "a cat"), ToolResult("c2", "no light", is_error=True))),
    generation=Generation(
        max_output_tokens=10, temperature=0.0, top_p=0.5, seed=0, presence_penalty=0.0,
        frequency_penalty=-1.0, stop_sequences=("a", "b"), reasoning_effort="low",
        top_logprobs=2, service_tier="flex",
    ),
    tools=(Tool("look", "Looks.", SCHEMA), Tool("bare", "", "")),
    tool_choice=ToolChoice("tool", "look", parallel=False),
    response_format=JsonSchemaFormat("answer", SCHEMA, strict=True),
    provider_options={"logit_bias": {"50256": -100.0}},
)  # fmt: skip


def test_all_fields_of_a_request_are_written():
    assert written(EVERYTHING, OPENAI) == {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
                ],
            },
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"n":1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            {"role": "tool", "tool_call_id": "c2", "content": "Error: no light"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 10,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 0,
        "presence_penalty": 0.0,
        "frequency_penalty": -1.0,
        "stop": ["a", "b"],
        "reasoning_effort": "low",
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": json.loads(SCHEMA)}},
            {"type": "function", "function": {"name": "bare", "parameters": {"type": "object", "properties": {}}}},
        ],
        "logprobs": True,
        "top_logprobs": 2,
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(SCHEMA), "strict": True}},
        "service_tier": "flex",
        "logit_bias": {"50256": -100.0},
    }  # fmt: skip


def test_the_sdks_types_contain_all_that_is_written():
    params = TypeAdapter(completion_create_params.CompletionCreateParamsStreaming)
    parts = TypeAdapter(list[ChatCompletionContentPartParam])

    def known(adapter, value):
        """Return the value without keys that its type lacks."""
        return adapter.dump_python(adapter.validate_python(value), mode="json")

    for asked in (EVERYTHING, request(), generating(max_output_tokens=1)):
        body = written(asked, OPENAI)
        for message in body["messages"]:
            if isinstance(message["content"], list):  # pydantic reads it once only
                assert known(parts, message["content"]) == message["content"]
                message["content"] = "read"
        assert known(params, body) == body


def test_fields_that_the_caller_did_not_set_are_not_sent():
    assert written(request()) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_large_numbers_of_a_schema_are_never_re_encoded():
    body = DIALECT.body(EVERYTHING, "m", OPENAI, None)

    assert msgspec.json.encode(body).count(SCHEMA.encode()) == 2


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ('{"type":"object"}', {"type": "object", "properties": {}}),
        ('{"type":"object","properties":{"a":{}}}', {"type": "object", "properties": {"a": {}}}),
        ('{"type":"object","$ref":"#/$defs/a"}', {"type": "object", "$ref": "#/$defs/a"}),
        ("", {"type": "object", "properties": {}}),
    ],
)
def test_the_schema_of_a_tool_always_has_properties(schema, expected):
    (tool,) = written(request(tools=(Tool("f", "", schema),)))["tools"]

    assert tool["function"]["parameters"] == expected


def test_several_texts_are_a_list_of_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    assert messages(*(Message(role, (Text("a"), Text("b"))) for role in ("system", "user", "assistant"))) == [
        {"role": "system", "content": parts},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": parts},
    ]  # fmt: skip


def test_an_assistant_message_with_only_tool_calls_has_no_content():
    (message,) = messages(Message("assistant", (Reasoning("Hm."), ToolCall("c1", "f", "{}"))))

    assert message["content"] is None
    assert len(message["tool_calls"]) == 1


def test_cache_hints_are_not_sent():
    assert messages(Message("user", (Text("a", cache_hint=True),))) == [
        {"role": "user", "content": "a"}
    ]


@pytest.mark.parametrize("mode", ["auto", "none", "required"])
def test_a_tool_choice_is_written_as_its_mode(mode):
    asked = request(tools=(Tool("f", "", ""),), tool_choice=ToolChoice(mode))

    assert written(asked)["tool_choice"] == mode


def test_a_json_format_is_a_json_object():
    assert written(request(response_format=JsonFormat()))["response_format"] == {
        "type": "json_object"
    }


@pytest.mark.parametrize(
    ("quirks", "asked", "expected"),
    [
        ({}, generating(max_output_tokens=5), {"max_tokens": 5}),
        ({"max_tokens_field": "max_completion_tokens"}, generating(max_output_tokens=5), {"max_completion_tokens": 5}),
        ({"top_k": True}, generating(top_k=40), {"top_k": 40}),
        ({"usage_option": False}, request(), {"stream_options": None}),
        ({"continuous_usage": True}, request(), {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
        ({}, generating(top_logprobs=0), {"logprobs": True, "top_logprobs": None}),
        ({}, generating(reasoning_effort="max", reasoning_summary="none"), {"reasoning_effort": "max"}),
        ({}, request(tool_choice=ToolChoice("auto", parallel=True)), {"parallel_tool_calls": None}),
        ({"constraints": "structured_outputs"}, REGEX, {"structured_outputs": {"regex": "a+"}}),
        ({"constraints": "structured_outputs"}, GRAMMAR, {"structured_outputs": {"grammar": "root ::= a"}}),
        ({"constraints": "guided"}, REGEX, {"guided_regex": "a+"}),
        ({"constraints": "guided"}, GRAMMAR, {"guided_grammar": "root ::= a"}),
        ({"constraints": "grammar"}, GRAMMAR, {"grammar": "root ::= a"}),
        ({"constraints": "sglang"}, REGEX, {"regex": "a+"}),
        ({"constraints": "sglang"}, GRAMMAR, {"ebnf": "root ::= a"}),
        ({"fixed_sampling_models": ["x", "m*"]}, generating(temperature=0.5, top_p=0.5, seed=1), {"temperature": None, "top_p": None, "seed": 1}),
        ({"fixed_sampling_models": ["x*"]}, generating(temperature=0.5), {"temperature": 0.5}),
        ({}, request(provider_options={"logprobs": True}), {"logprobs": True}),
        ({"usage_option": False}, request(provider_options={"stream_options": {"x": 1}}), {"stream_options": {"x": 1}}),
    ],
)  # fmt: skip
def test_quirks_change_the_body(quirks, asked, expected):
    body = written(asked, config(**quirks))

    assert {key: body.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("prefill", "expected", "field"),
    [
        ("none", {}, None),
        ("message", {}, None),
        ("prefix", {"prefix": True}, None),
        ("continue_final_message", {}, ("continue_final_message", "add_generation_prompt")),
    ],
)
def test_how_a_server_continues_the_last_message_is_a_quirk(prefill, expected, field):
    begun = [Message("user", (Text("Count."),)), Message("assistant", (Text("One,"),))]
    body = written(request(*begun), config(prefill=prefill))
    assert body["messages"][-1] == {"role": "assistant", "content": "One,"} | expected
    added = (True, False) if field else (None, None)
    assert (body.get("continue_final_message"), body.get("add_generation_prompt")) == added
    ended = written(request(*begun, Message("user", (Text("Go on."),))), config(prefill=prefill))
    assert "continue_final_message" not in ended
    assert not any("prefix" in message for message in ended["messages"])


def test_the_role_of_instructions_is_a_quirk():
    asked = Message("system", (Text("a"),))

    assert messages(asked, where=config(system_role="developer"))[0]["role"] == "developer"


@pytest.mark.parametrize(
    ("asked", "quirks", "field"),
    [
        (generating(top_k=1), {}, "generation.top_k"),
        (generating(stop_sequences=tuple("abcde")), {}, "generation.stop_sequences"),
        (generating(reasoning_budget_tokens=2000), {}, "generation.reasoning.budget_tokens"),
        (generating(reasoning_summary="auto"), {}, "generation.reasoning.summary"),
        (REGEX, {}, "response_format.regex"),
        (REGEX, {"constraints": "grammar"}, "response_format.regex"),
        (GRAMMAR, {}, "response_format.grammar"),
        (generating(reasoning_effort="low"), {"reasoning_effort": False}, "generation.reasoning.effort"),
        (request(response_format=JsonSchemaFormat("a", "{}")), {"json_schema": False}, "response_format.json_schema"),
    ],
)  # fmt: skip
def test_an_unsupported_field_is_refused_with_its_path(asked, quirks, field):
    assert violations(asked, config(**quirks)) == [field]


def test_all_violations_are_reported_at_once():
    asked = ChatRequest(
        model="p/m",
        messages=HELLO,
        generation=Generation(top_k=1, reasoning_budget_tokens=2000),
        provider_options={"stream": False},
    )

    assert violations(asked) == [
        "generation.top_k",
        "generation.reasoning.budget_tokens",
        "provider_options.stream",
    ]


@pytest.mark.parametrize("key", ["model", "messages", "stream", "stream_options", "n", "functions", "function_call"])  # fmt: skip
def test_a_provider_option_that_changes_the_format_of_the_answer_is_refused(key):
    assert violations(request(provider_options={key: 1})) == [f"provider_options.{key}"]


@pytest.mark.parametrize("key", ["temperature", "max_tokens", "max_completion_tokens", "stop"])
def test_a_provider_option_that_the_request_also_sets_is_refused(key):
    options = {key: 1}
    set_too = Generation(temperature=0.5, max_output_tokens=5, stop_sequences=("a",))

    assert violations(request(generation=set_too, provider_options=options)) == [
        f"provider_options.{key}"
    ]
    assert written(request(provider_options=options))[key] == 1


def test_the_decoder_is_configured_with_the_end_marker_quirk():
    answer = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    for done_marker in (True, False, None):
        decoder = DIALECT.decoder(config(done_marker=done_marker))
        decoder.feed(answer)
        decoder.eof()
        assert isinstance(decoder.end, Complete) is (done_marker is not True)
        assert bool(decoder.problem) is (done_marker is None)
