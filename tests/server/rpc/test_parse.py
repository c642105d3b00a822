import json
import time
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.v1 import chat_pb2 as pb
from tokenwire.v1 import event_pb2
from tokenwire_server import request as domain
from tokenwire_server.chats.violations import MAX_CHARS, MAX_OF_ONE_LIST
from tokenwire_server.config import Limits
from tokenwire_server.errors import MAX_VIOLATIONS, InvalidRequest
from tokenwire_server.rpc.parse import parse_chat_request

from .parse_support import USER, parsed, part, paths, refused


def test_a_request_with_every_field_is_parsed_completely():
    schema = '{"type":"object","properties":{"n":{"type":"integer"}}}'
    request, violations = parsed(
        messages=[
            pb.Message(role=pb.ROLE_SYSTEM, parts=[pb.Part(text="be brief", cache_hint=True)]),
            pb.Message(
                role=pb.ROLE_USER,
                parts=[
                    pb.Part(text="look"),
                    pb.Part(image=pb.Image(uri="https://example.com/a.png")),
                    pb.Part(image=pb.Image(data=b"\x89PNG", media_type="image/png")),
                ],
            ),
            pb.Message(
                role=pb.ROLE_ASSISTANT,
                parts=[
                    pb.Part(reasoning=pb.Reasoning(text="hm", signature="proof")),
                    pb.Part(
                        tool_call=event_pb2.ToolCall(
                            id="c1", name="add", arguments_json='{"n":9007199254740993}'
                        )
                    ),
                ],
            ),
            pb.Message(
                role=pb.ROLE_TOOL,
                parts=[
                    pb.Part(tool_result=pb.ToolResult(tool_call_id="c1", text="3", is_error=True))
                ],
            ),
        ],
        generation=pb.GenerationConfig(
            max_output_tokens=10,
            temperature=0,
            top_p=0.5,
            top_k=3,
            seed=-1,
            presence_penalty=-2,
            frequency_penalty=2,
            stop_sequences=["END"],
            reasoning=pb.ReasoningConfig(
                effort=pb.REASONING_EFFORT_LOW,
                budget_tokens=2048,
                summary=pb.REASONING_SUMMARY_CONCISE,
            ),
            logprobs=pb.LogprobsConfig(top_count=20),
            service_tier="priority",
        ),
        tools=[pb.Tool(name="add", description="adds", parameters_json_schema=schema)],
        tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_TOOL, tool_name="add", parallel=False),
        response_format=pb.ResponseFormat(
            json_schema=pb.JsonSchemaFormat(name="s", schema_json=schema, strict=True)
        ),
    )
    assert violations == []
    assert request == domain.ChatRequest(
        model="openai/m",
        messages=(
            domain.Message("system", (domain.Text("be brief", cache_hint=True),)),
            domain.Message(
                "user",
                (
                    domain.Text("look"),
                    domain.Image(uri="https://example.com/a.png"),
                    domain.Image(data=b"\x89PNG", media_type="image/png"),
                ),
            ),
            domain.Message(
                "assistant",
                (
                    domain.Reasoning("hm", "proof"),
                    domain.ToolCall("c1", "add", '{"n":9007199254740993}'),
                ),
            ),
            domain.Message("tool", (domain.ToolResult("c1", "3", is_error=True),)),
        ),
        generation=domain.Generation(
            max_output_tokens=10,
            temperature=0.0,
            top_p=0.5,
            top_k=3,
            seed=-1,
            presence_penalty=-2.0,
            frequency_penalty=2.0,
            stop_sequences=("END",),
            reasoning_effort="low",
            reasoning_budget_tokens=2048,
            reasoning_summary="concise",
            top_logprobs=20,
            service_tier="priority",
        ),
        tools=(domain.Tool("add", "adds", schema),),
        tool_choice=domain.ToolChoice("tool", "add", parallel=False),
        response_format=domain.JsonSchemaFormat("s", schema, strict=True),
        delivery=domain.Delivery(heartbeat_s=15.0),
        retention=domain.Retention(log_ttl_s=60.0),
    )


def test_every_violation_is_reported_at_once():
    assert paths(
        model="",
        messages=[
            pb.Message(parts=[pb.Part(text="x")]),
            pb.Message(role=pb.ROLE_USER),
            pb.Message(role=pb.ROLE_USER, parts=[pb.Part(), pb.Part(text="")]),
        ],
        generation=pb.GenerationConfig(temperature=2.1, max_output_tokens=0),
    ) == [
        "model",
        "messages[0].role",
        "messages[1].parts",
        "messages[2].parts[0]",
        "messages[2].parts[1].text",
        "generation.max_output_tokens",
        "generation.temperature",
    ]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": []}, "messages"),
        ({"model": "m" * 257}, "model"),
        ({"messages": part(pb.ROLE_USER, reasoning=pb.Reasoning(text="x"))}, "messages[0].parts[0].reasoning"),
        ({"messages": part(pb.ROLE_SYSTEM, image=pb.Image(uri="https://x"))}, "messages[0].parts[0].image"),
        ({"messages": part(pb.ROLE_TOOL, text="x")}, "messages[0].parts[0].text"),
        ({"messages": part(pb.ROLE_USER, image=pb.Image(uri="file:///etc/passwd"))}, "messages[0].parts[0].image.uri"),
        ({"messages": part(pb.ROLE_USER, image=pb.Image(data=b"x"))}, "messages[0].parts[0].image.media_type"),
        ({"messages": part(pb.ROLE_USER, image=pb.Image())}, "messages[0].parts[0].image"),
        ({"messages": part(pb.ROLE_ASSISTANT, tool_call=event_pb2.ToolCall(name="x"))}, "messages[0].parts[0].tool_call.id"),
        (
            {"messages": part(pb.ROLE_ASSISTANT, tool_call=event_pb2.ToolCall(id="i", name="x", arguments_json="[1]"))},
            "messages[0].parts[0].tool_call.arguments_json",
        ),
        ({"messages": part(pb.ROLE_TOOL, tool_result=pb.ToolResult(text="x"))}, "messages[0].parts[0].tool_result.tool_call_id"),
        ({"messages": part(pb.ROLE_ASSISTANT, reasoning=pb.Reasoning())}, "messages[0].parts[0].reasoning"),
        ({"messages": [pb.Message(role=pb.ROLE_USER)] * 10_001}, "messages"),
        ({"messages": [pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="x")] * 10_001)]}, "messages"),
        ({"tools": [pb.Tool(name=f"t{n}") for n in range(513)]}, "tools"),
        (
            {"messages": part(pb.ROLE_USER, image=pb.Image(uri="https://x", media_type="image/png"))},
            "messages[0].parts[0].image.media_type",
        ),
        (
            {"messages": part(pb.ROLE_USER, image=pb.Image(data=b"", media_type="image/png"))},
            "messages[0].parts[0].image.data",
        ),
        ({"messages": part(pb.ROLE_ASSISTANT, tool_call=event_pb2.ToolCall(id="i"))}, "messages[0].parts[0].tool_call.name"),
        ({"generation": pb.GenerationConfig(top_p=1.1)}, "generation.top_p"),
        ({"generation": pb.GenerationConfig(frequency_penalty=2.5)}, "generation.frequency_penalty"),
        ({"generation": pb.GenerationConfig(top_p=0)}, "generation.top_p"),
        ({"generation": pb.GenerationConfig(temperature=float("nan"))}, "generation.temperature"),
        ({"generation": pb.GenerationConfig(top_k=0)}, "generation.top_k"),
        ({"generation": pb.GenerationConfig(presence_penalty=-2.5)}, "generation.presence_penalty"),
        ({"generation": pb.GenerationConfig(stop_sequences=["a", ""])}, "generation.stop_sequences[1]"),
        ({"generation": pb.GenerationConfig(stop_sequences=["a"] * 17)}, "generation.stop_sequences"),
        (
            {"generation": pb.GenerationConfig(reasoning=pb.ReasoningConfig(budget_tokens=1))},
            "generation.reasoning.budget_tokens",
        ),
        ({"generation": pb.GenerationConfig(reasoning=pb.ReasoningConfig(effort=99))}, "generation.reasoning.effort"),
        ({"generation": pb.GenerationConfig(reasoning=pb.ReasoningConfig(summary=99))}, "generation.reasoning.summary"),
        ({"generation": pb.GenerationConfig(logprobs=pb.LogprobsConfig(top_count=21))}, "generation.logprobs.top_count"),
        ({"generation": pb.GenerationConfig(logprobs=pb.LogprobsConfig(top_count=-1))}, "generation.logprobs.top_count"),
        ({"generation": pb.GenerationConfig(service_tier="x" * 65)}, "generation.service_tier"),
        ({"generation": pb.GenerationConfig(service_tier="a\nb")}, "generation.service_tier"),
        ({"tools": [pb.Tool(name="no spaces")]}, "tools[0].name"),
        ({"tools": [pb.Tool(name="a"), pb.Tool(name="a")]}, "tools[1].name"),
        ({"tools": [pb.Tool(name="a", parameters_json_schema="{")]}, "tools[0].parameters_json_schema"),
        ({"tools": [pb.Tool(name="a", parameters_json_schema='{"type":"string"}')]}, "tools[0].parameters_json_schema"),
        (
            {"tools": [pb.Tool(name="a", parameters_json_schema='{"type":"object","properties":3}')]},
            "tools[0].parameters_json_schema",
        ),
        ({"tool_choice": pb.ToolChoice()}, "tool_choice"),
        (
            {"tools": [pb.Tool(name="a")], "tool_choice": pb.ToolChoice(mode=4, tool_name="b")},
            "tool_choice.tool_name",
        ),
        ({"tools": [pb.Tool(name="a")], "tool_choice": pb.ToolChoice(mode=1, tool_name="a")}, "tool_choice.tool_name"),
        ({"tools": [pb.Tool(name="a")], "tool_choice": pb.ToolChoice(mode=77)}, "tool_choice.mode"),
        (
            {"response_format": pb.ResponseFormat(json_schema=pb.JsonSchemaFormat(name="s"))},
            "response_format.json_schema.schema_json",
        ),
        (
            {"response_format": pb.ResponseFormat(json_schema=pb.JsonSchemaFormat(schema_json="{}"))},
            "response_format.json_schema.name",
        ),
        ({"response_format": pb.ResponseFormat(regex=pb.RegexFormat())}, "response_format.regex.pattern"),
        (
            {"response_format": pb.ResponseFormat(regex=pb.RegexFormat(pattern="x" * 65_537))},
            "response_format.regex.pattern",
        ),
        ({"response_format": pb.ResponseFormat(grammar=pb.GrammarFormat())}, "response_format.grammar.definition"),
        (
            {"response_format": pb.ResponseFormat(grammar=pb.GrammarFormat(definition="x" * 262_145))},
            "response_format.grammar.definition",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_named_by_its_path(fields, path):
    assert paths(**fields) == [path]


@pytest.mark.parametrize(
    ("media_type", "description"),
    [
        ("", 'is required with data, such as "image/png"'),
        ("text/plain", "'text/plain' is not an image type, such as \"image/png\""),
    ],
)
def test_a_media_type_that_is_missing_and_one_of_no_image_are_distinguished(
    media_type, description
):
    image = pb.Image(data=b"x", media_type=media_type)
    _, (violation,) = parsed(messages=part(pb.ROLE_USER, image=image))
    assert violation.description == description


def test_a_range_without_its_lower_bound_is_described():
    _, violations = parsed(generation=pb.GenerationConfig(top_p=0, temperature=3))
    assert [each.description for each in violations] == [
        "is 3.0; it must be 0 to 2",
        "is 0.0; it must be above 0 and at most 1",
    ]


@pytest.mark.parametrize("mode", ["auto", "none", "required", "tool"])
def test_each_tool_choice_is_parsed(mode):
    name = "a" if mode == "tool" else ""
    choice = pb.ToolChoice(mode=f"TOOL_CHOICE_MODE_{mode.upper()}", tool_name=name)
    request, violations = parsed(tools=[pb.Tool(name="a")], tool_choice=choice)
    assert violations == []
    assert request.tool_choice == domain.ToolChoice(mode, name)


@pytest.mark.parametrize("effort", get_args(domain.Effort))
def test_each_effort_is_parsed(effort):
    reasoning = pb.ReasoningConfig(effort=f"REASONING_EFFORT_{effort.upper()}")
    request, violations = parsed(generation=pb.GenerationConfig(reasoning=reasoning))
    assert violations == []
    assert request.generation.reasoning_effort == effort


@pytest.mark.parametrize("summary", get_args(domain.ReasoningSummary))
def test_each_reasoning_summary_is_parsed(summary):
    reasoning = pb.ReasoningConfig(summary=f"REASONING_SUMMARY_{summary.upper()}")
    request, violations = parsed(generation=pb.GenerationConfig(reasoning=reasoning))
    assert violations == []
    assert request.generation.reasoning_summary == summary


def test_fields_that_are_not_set_stay_unset():
    request, violations = parsed()
    assert violations == []
    assert request.generation == domain.Generation()
    assert request.tool_choice is request.response_format is None
    request, violations = parsed(
        generation=pb.GenerationConfig(logprobs=pb.LogprobsConfig()),
        tools=[pb.Tool(name="a")],
        tool_choice=pb.ToolChoice(),
    )
    assert violations == []
    assert request.generation == domain.Generation(top_logprobs=0)
    assert request.tool_choice.parallel is None


def test_each_response_format_is_parsed():
    json_format = pb.ResponseFormat(json=pb.JsonFormat())
    assert parsed(response_format=json_format)[0].response_format == domain.JsonFormat()
    regex = pb.ResponseFormat(regex=pb.RegexFormat(pattern="a+"))
    assert parsed(response_format=regex)[0].response_format == domain.RegexFormat("a+")
    grammar = pb.ResponseFormat(grammar=pb.GrammarFormat(definition='root ::= "a"'))
    assert parsed(response_format=grammar)[0].response_format == domain.GrammarFormat(
        'root ::= "a"'
    )
    text_format = pb.ResponseFormat(text=pb.TextFormat())
    assert parsed(response_format=text_format)[0].response_format is None


def test_a_deeply_nested_schema_is_refused_and_crashes_nothing():
    deep = '{"items":' * 5000 + "{}" + "}" * 5000
    assert paths(tools=[pb.Tool(name="a", parameters_json_schema=deep)]) == [
        "tools[0].parameters_json_schema"
    ]
    merely_deep = '{"type":"object","items":' + '{"items":' * 70 + "{}" + "}" * 71
    assert paths(tools=[pb.Tool(name="a", parameters_json_schema=merely_deep)]) == [
        "tools[0].parameters_json_schema"
    ]


def test_a_schema_that_would_take_seconds_to_check_is_refused_at_once():
    wide = '{"type":"object","allOf":[' + ",".join(["{}"] * 60_000) + "]}"
    began = time.thread_time()
    assert paths(tools=[pb.Tool(name="a", parameters_json_schema=wide)]) == [
        "tools[0].parameters_json_schema"
    ]
    assert time.thread_time() - began < 0.5


def test_the_fault_of_a_schema_is_explained_only_if_that_is_cheap():
    def description(count):
        schema = json.dumps({"type": "object", "items": {"type": ["x"] * count}})
        (violation,) = parsed(tools=[pb.Tool(name="a", parameters_json_schema=schema)])[1]
        return violation.description

    assert description(2).startswith("is not a JSON Schema: $['items']['type']")
    assert description(15_000) == "is not a JSON Schema (2020-12)"


def test_references_of_a_schema_are_not_fetched():
    schema = '{"$schema":"http://127.0.0.1:9/s","type":"object","$ref":"http://127.0.0.1:9/r"}'
    assert paths(tools=[pb.Tool(name="a", parameters_json_schema=schema)]) == []


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x02\xc3\x28", b"\x12\x05ab"])
def test_malformed_bytes_are_refused_without_text_of_python(data):
    with pytest.raises(InvalidRequest) as caught:
        parse_chat_request(data, Limits(max_request_bytes=1 << 20))
    assert "not a tokenwire.v1.ChatRequest" in str(caught.value)


def test_a_request_over_the_limit_is_refused_with_both_sizes():
    data = pb.ChatRequest(model="x" * 2000).SerializeToString()
    with pytest.raises(InvalidRequest, match=f"{len(data)} bytes; this server takes 1024"):
        parse_chat_request(data, Limits(max_request_bytes=1024))


def test_whole_numbers_in_provider_options_stay_whole():
    request = pb.ChatRequest(model="openai/m", messages=[USER])
    request.provider_options.update({"n": 5, "x": 0.5, "deep": {"list": [1, True, None, "s"]}})
    options = parse_chat_request(request.SerializeToString(), Limits(max_request_bytes=1 << 20))[
        0
    ].provider_options
    assert json.dumps(options, sort_keys=True) == (
        '{"deep": {"list": [1, true, null, "s"]}, "n": 5, "x": 0.5}'
    )


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_raise_anything_but_its_own_error(data):
    try:
        parse_chat_request(data, Limits(max_request_bytes=1 << 20))
    except InvalidRequest as error:
        assert error.violations


def test_violations_in_one_long_list_do_not_hide_other_violations():
    request, violations = parsed(
        messages=[pb.Message(role=pb.ROLE_USER)] * 1000,
        tools=[pb.Tool(name="a")] * 3,
        generation=pb.GenerationConfig(temperature=9),
    )
    fields = [violation.field for violation in violations]
    assert fields[:MAX_OF_ONE_LIST] == [f"messages[{i}].parts" for i in range(MAX_OF_ONE_LIST)]
    assert fields[MAX_OF_ONE_LIST:] == ["generation.temperature", "tools[1].name", "tools[2].name"]
    assert len(request.messages) == MAX_OF_ONE_LIST  # the others were not checked
    assert str(violations.error()).endswith("(and at least 12 more)")


def test_checking_stops_after_the_maximum_number_of_violations():
    error = refused(
        model="",
        messages=[pb.Message(role=pb.ROLE_USER)] * 20,
        tools=[pb.Tool()] * 20,
        generation=pb.GenerationConfig(temperature=9),
    )
    assert len(error.violations) == MAX_VIOLATIONS
    assert str(error).endswith(f"(and at least {MAX_VIOLATIONS - 1} more)")


def test_long_texts_of_a_caller_are_cut_in_descriptions():
    huge = "x" * 200_000
    request, violations = parsed(
        tools=[pb.Tool(name=huge), pb.Tool(name=huge)],
        tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_TOOL, tool_name="y" + huge),
        request_id=huge,
        model=huge,
    )
    assert [violation.field for violation in violations] == [
        "model",
        "request_id",
        "tools[0].name",
        "tools[1].name",
        "tool_choice.tool_name",
    ]
    assert all(len(violation.description) <= MAX_CHARS for violation in violations)
    assert request.model == ""  # an invalid name is not looked up
