"""Requests as they are written for the Responses API, checked with the types of the official SDK."""

import base64
import json
from collections.abc import Iterable
from functools import cache
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter

from examples import scaled
from tokenwire_server.config import ProviderConfig, Quirks
from tokenwire_server.providers.openai_responses import OpenAIResponses
from tokenwire_server.request import (
    Audio,
    ChatRequest,
    Document,
    Effort,
    Generation,
    GrammarFormat,
    Image,
    JsonFormat,
    JsonSchemaFormat,
    Message,
    Reasoning,
    ReasoningSummary,
    RegexFormat,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

CONFIG = ProviderConfig(kind="openai-responses", base_url="https://api.openai.com/v1")


def sign(item_id: str, encrypted_content: str) -> str:
    """Return a signature as earlier versions wrote it instead of a provider state."""
    return f"rs:{item_id}:{encrypted_content}"


USER = Message("user", (Text("Hello"),))


@cache  # it takes long to build, and not every worker needs it
def sdk_types():
    return TypeAdapter(ResponseCreateParamsStreaming)


SCHEMA = '{"type":"object","properties":{"n":{"const":9007199254740993}}}'


def ask(*messages: Message, **fields: Any) -> ChatRequest:
    return ChatRequest(model="openai-responses/m", messages=messages or (USER,), **fields)


def body_of(request: ChatRequest, config: ProviderConfig = CONFIG) -> dict[str, Any]:
    """Return the body as the provider reads it."""
    dialect = OpenAIResponses()
    assert list(dialect.check(request, config)) == []
    return json.loads(msgspec.json.encode(dialect.body(request, "m", config, 4096)))


def input_of(*messages: Message) -> list[dict[str, Any]]:
    return body_of(ask(*messages))["input"]


def violated(request: ChatRequest, config: ProviderConfig = CONFIG) -> list[str]:
    return [violation.field for violation in OpenAIResponses().check(request, config)]


def whole(value: Any) -> Any:
    """Return the value with pydantic's lazy iterators read, because they validate only then."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [whole(item) for item in value]
    return value


def test_a_minimal_request_is_streamed_and_not_stored():
    assert body_of(ask()) == {
        "model": "m",
        "input": [{"type": "message", "role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "store": False,
    }


def test_settings_are_written_with_the_apis_names():
    generation = Generation(max_output_tokens=16, temperature=0.5, top_p=0.9)
    body = body_of(ask(generation=generation))
    assert (body["max_output_tokens"], body["temperature"], body["top_p"]) == (16, 0.5, 0.9)


def test_the_models_maximum_is_not_sent():
    assert "max_output_tokens" not in body_of(ask())


def test_an_effort_requests_encrypted_reasoning():
    body = body_of(ask(generation=Generation(reasoning_effort="high")))
    assert body["reasoning"] == {"effort": "high"}
    assert body["include"] == ["reasoning.encrypted_content"]


@pytest.mark.parametrize("effort", ["xhigh", "max"])
def test_the_highest_efforts_are_passed_on(effort):
    assert (
        body_of(ask(generation=Generation(reasoning_effort=effort)))["reasoning"]["effort"]
        == effort
    )


def test_a_summary_is_requested_only_if_the_caller_sets_one():
    body = body_of(ask(generation=Generation(reasoning_summary="concise")))
    assert body["reasoning"] == {"summary": "concise"}
    assert body["include"] == ["reasoning.encrypted_content"]
    assert "reasoning" not in body_of(ask(generation=Generation(reasoning_summary="none")))


def test_a_conversation_with_encrypted_reasoning_requests_more_of_it():
    turn = Message("assistant", (Reasoning("hm", sign("rs_1", "gAAA")), Text("Hi")))
    assert body_of(ask(USER, turn))["include"] == ["reasoning.encrypted_content"]
    without = Generation(reasoning_effort="none")
    assert "include" not in body_of(ask(USER, turn, generation=without))
    own = {"include": ["file_search_call.results"]}
    assert body_of(ask(USER, turn, provider_options=own))["include"] == own["include"]


@pytest.mark.parametrize(("count", "written"), [(0, None), (5, 5)])
def test_log_probabilities_are_included(count, written):
    body = body_of(ask(generation=Generation(top_logprobs=count, reasoning_effort="low")))
    assert body.get("top_logprobs") == written
    assert body["include"] == ["reasoning.encrypted_content", "message.output_text.logprobs"]


def test_the_tier_and_parallel_calls_are_passed_on():
    choice = ToolChoice("auto", parallel=False)
    tools = (Tool("a", "", ""),)
    request = ask(generation=Generation(service_tier="flex"), tools=tools, tool_choice=choice)
    body = body_of(request)
    assert (body["service_tier"], body["parallel_tool_calls"]) == ("flex", False)


def test_a_small_limit_is_refused_only_for_openai():
    request = ask(generation=Generation(max_output_tokens=1))
    compatible = CONFIG.model_copy(update={"base_url": "https://openai.com.example/v1"})
    azure = CONFIG.model_copy(update={"base_url": "https://r.openai.azure.com/openai/v1"})
    assert violated(request, CONFIG) == violated(request, azure) == ["generation.max_output_tokens"]
    assert body_of(request, compatible)["max_output_tokens"] == 1


@pytest.mark.parametrize(
    ("constraint", "path"),
    [(RegexFormat("a+"), "response_format.regex"), (GrammarFormat("a"), "response_format.grammar")],
)
def test_regular_expressions_and_grammars_are_refused(constraint, path):
    assert violated(ask(response_format=constraint)) == [path]


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ('{"type":"object"}', {"type": "object", "properties": {}}),
        ('{"type":"object","$ref":"#/a"}', {"type": "object", "$ref": "#/a"}),
    ],
)
def test_an_object_schema_has_properties(schema, written):
    assert body_of(ask(tools=(Tool("a", "", schema),)))["tools"][0]["parameters"] == written


@pytest.mark.parametrize("effort", [None, "none"])
def test_encrypted_reasoning_is_not_requested_without_an_effort(effort):
    assert "include" not in body_of(ask(generation=Generation(reasoning_effort=effort)))


def test_system_messages_keep_their_position():
    messages = (Message("system", (Text("a"),)), USER, Message("system", (Text("b"), Text("c"))))
    assert input_of(*messages) == [
        {"type": "message", "role": "system", "content": "a"},
        {"type": "message", "role": "user", "content": "Hello"},
        {
            "type": "message",
            "role": "system",
            "content": [{"type": "input_text", "text": "b"}, {"type": "input_text", "text": "c"}],
        },
    ]


def test_the_role_of_instructions_is_a_quirk():
    config = CONFIG.model_copy(update={"quirks": Quirks(system_role="developer")})
    body = body_of(ask(Message("system", (Text("a"),)), USER), config)
    assert [item["role"] for item in body["input"]] == ["developer", "user"]


def test_images_are_sent_as_url_or_data():
    picture = b"\x89PNG\x00\xff"
    parts = (
        Text("What?"),
        Image(uri="https://e.example/a.png"),
        Image("", picture, "image/png"),
    )
    [message] = input_of(Message("user", parts))
    assert message["content"] == [
        {"type": "input_text", "text": "What?"},
        {"type": "input_image", "detail": "auto", "image_url": "https://e.example/a.png"},
        {
            "type": "input_image",
            "detail": "auto",
            "image_url": "data:image/png;base64," + base64.b64encode(picture).decode(),
        },
    ]


PDF = b"%PDF-1.7"
PDF_URL = "data:application/pdf;base64," + base64.b64encode(PDF).decode()


@pytest.mark.parametrize(
    ("document", "written"),
    [
        (
            Document(data=PDF, media_type="application/pdf", title="Report"),
            {"type": "input_file", "filename": "Report.pdf", "file_data": PDF_URL},
        ),
        (
            Document(data=PDF, media_type="application/pdf"),
            {"type": "input_file", "filename": "document.pdf", "file_data": PDF_URL},
        ),
        (
            Document(uri="https://e.example/a.pdf", title="Report"),
            {"type": "input_file", "file_url": "https://e.example/a.pdf"},
        ),
        (
            Document(data=b"Five pears.", media_type="text/plain", title="Report"),
            {"type": "input_text", "text": "Report\n\nFive pears."},
        ),
    ],
)
def test_documents_are_files_or_texts_also_in_the_result_of_a_tool(document, written):
    result = ToolResult("call_1", "See.", parts=(document, Image(uri="https://e.example/a.png")))
    [user, output] = input_of(Message("user", (document,)), Message("tool", (result,)))
    assert user["content"] == [written]
    assert output["output"] == [
        {"type": "input_text", "text": "See."},
        written,
        {"type": "input_image", "detail": "auto", "image_url": "https://e.example/a.png"},
    ]


def test_audio_is_refused_with_its_path():
    audio = Message("user", (Text("Hear"), Audio(b"RIFF", "audio/wav")))
    assert violated(ask(USER, audio)) == ["messages[1].parts[1].audio"]


def test_ids_that_the_api_refuses_are_rewritten_alike_and_stay_different():
    ids = ["c" * 64, "c" * 65, "c" * 66]
    calls = Message("assistant", tuple(ToolCall(id_, "f", "{}") for id_ in ids))
    results = Message("tool", tuple(ToolResult(id_, "x") for id_ in ids))
    sent = [item["call_id"] for item in input_of(calls, results)]
    assert sent[:3] == sent[3:]
    assert sent[0] == ids[0]
    assert len(set(sent)) == 3
    assert all(len(id_) <= 64 for id_ in sent)


def test_a_failed_result_with_an_image_has_its_text_first():
    result = ToolResult("call_1", "no", is_error=True, parts=(Image(uri="https://e.example/a"),))
    [output] = input_of(Message("tool", (result,)))
    assert output["output"][0] == {"type": "input_text", "text": "Error: no"}


@pytest.mark.parametrize("parts", [(), (Text(" \n"),)])
def test_a_blank_answer_is_left_out(parts):
    assert len(input_of(USER, Message("assistant", parts), USER)) == 2
    assert violated(ask(Message("assistant", parts))) == ["messages"]


@pytest.mark.parametrize(
    "state",
    [
        b"{",
        b"[]",
        b'{"encrypted_content":"x","y":' + b"[" * 100_000,
        b'{"encrypted_content":"x","parts":[["summary_text",2],["summary_text",-4]]}',
        b'{"encrypted_content":"x","parts":[' + b'["",0],' * 4096 + b'["",0]]}',
    ],
)
def test_a_state_that_the_caller_changed_is_ignored(state):
    turn = Message("assistant", (Reasoning("hm", state=state), Text("Hi", state=state)))
    assert input_of(USER, turn)[1:] == [{"type": "message", "role": "assistant", "content": "Hi"}]


def test_a_turn_with_reasoning_and_calls_is_sent_back_as_items_in_order():
    turn = Message(
        "assistant",
        (
            Reasoning("I need both.", sign("rs_1", "gAAA=")),
            Text("Let me look."),
            ToolCall("call_1", "weather", '{"n":9007199254740993}'),
            ToolCall("call_2", "weather", "{}"),
        ),
    )
    results = Message("tool", (ToolResult("call_1", "sunny"), ToolResult("call_2", "no", True)))
    assert input_of(USER, turn, results)[1:] == [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "I need both."}],
            "encrypted_content": "gAAA=",
        },
        {"type": "message", "role": "assistant", "content": "Let me look."},
        {
            "type": "function_call",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"n":9007199254740993}',
        },
        {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "call_2", "output": "Error: no"},
    ]


def test_hidden_reasoning_is_sent_back_without_a_summary():
    turn = Message("assistant", (Reasoning("", sign("rs_1", "gA:A")), Text("Hi")))
    assert input_of(USER, turn)[1]["summary"] == []
    assert input_of(USER, turn)[1]["encrypted_content"] == "gA:A"


@pytest.mark.parametrize(
    "signature", ["", "ErUBCkYIBxgCIkA=", "rs:", "rs:rs_1:", "rs::x", "redacted:x"]
)
def test_reasoning_that_this_provider_did_not_sign_is_left_out(signature):
    turn = Message("assistant", (Reasoning("hm", signature), Text("Hi")))
    assert input_of(USER, turn)[1:] == [{"type": "message", "role": "assistant", "content": "Hi"}]


def test_reasoning_without_a_following_item_is_left_out():
    thought = Reasoning("hm", sign("rs_1", "gAAA"))
    cut_off = Message("assistant", (Text("Hi"), thought, thought))
    assert [item["type"] for item in input_of(USER, cut_off, USER)] == ["message"] * 3
    assert [item["type"] for item in input_of(USER, cut_off)] == ["message"] * 2


def test_a_conversation_of_only_reasoning_is_refused():
    thoughts = Message("assistant", (Reasoning("hm", sign("rs_1", "gAAA")),))
    assert violated(ask(thoughts, thoughts)) == ["messages"]
    assert violated(ask(thoughts, USER)) == []


def test_two_reasoning_items_before_one_text_are_both_sent_back():
    thoughts = (Reasoning("a", sign("rs_1", "x")), Reasoning("b", sign("rs_2", "y")))
    turn = Message("assistant", (*thoughts, Text("Hi")))
    assert [item.get("id") for item in input_of(USER, turn)] == [None, "rs_1", "rs_2", None]


def test_tools_are_not_strict_and_their_schemas_are_unchanged():
    request = ask(tools=(Tool("a", "does a", SCHEMA), Tool("b", "", "")))
    dialect = OpenAIResponses()
    encoded = msgspec.json.encode(dialect.body(request, "m", CONFIG, None))
    assert SCHEMA.encode() in encoded
    assert json.loads(encoded)["tools"][1] == {
        "type": "function",
        "name": "b",
        "parameters": {"type": "object", "properties": {}},
        "strict": False,
    }
    assert json.loads(encoded)["tools"][0]["description"] == "does a"
    assert json.loads(encoded)["tools"][0]["strict"] is False


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (ToolChoice("auto"), "auto"),
        (ToolChoice("none"), "none"),
        (ToolChoice("required"), "required"),
        (ToolChoice("tool", "a"), {"type": "function", "name": "a"}),
    ],
)
def test_tool_choices(choice, written):
    assert body_of(ask(tools=(Tool("a", "", ""),), tool_choice=choice))["tool_choice"] == written


def test_response_formats():
    assert body_of(ask(response_format=JsonFormat()))["text"] == {"format": {"type": "json_object"}}
    schema = JsonSchemaFormat("answer", SCHEMA, strict=True)
    assert body_of(ask(response_format=schema))["text"]["format"] == {
        "type": "json_schema",
        "name": "answer",
        "schema": json.loads(SCHEMA),
        "strict": True,
    }


def test_all_unsupported_fields_are_refused_at_once_with_their_paths():
    request = ask(
        generation=Generation(
            max_output_tokens=15,
            top_k=1,
            seed=1,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            stop_sequences=("x",),
            reasoning_effort="low",
            reasoning_budget_tokens=1024,
        ),
        provider_options={"store": True, "reasoning": {}, "include": [], "background": True},
    )
    assert violated(request) == [
        "generation.max_output_tokens",
        "generation.top_k",
        "generation.seed",
        "generation.presence_penalty",
        "generation.frequency_penalty",
        "generation.stop_sequences",
        "generation.reasoning.budget_tokens",
        "provider_options.store",
        "provider_options.reasoning",
        "provider_options.include",
        "provider_options.background",
    ]


def test_quirks_refuse_what_a_server_does_not_support():
    quirks = Quirks(reasoning_effort=False, json_schema=False, top_k=True)
    config = CONFIG.model_copy(update={"quirks": quirks})
    request = ask(
        generation=Generation(reasoning_effort="low", top_k=3),
        response_format=JsonSchemaFormat("a", SCHEMA),
    )
    assert violated(request, config) == [
        "generation.reasoning.effort",
        "response_format.json_schema",
    ]
    assert body_of(ask(generation=Generation(top_k=3)), config)["top_k"] == 3


@pytest.mark.parametrize("key", ["model", "input", "stream", "stream_options", "store"])
def test_reserved_provider_options_are_refused(key):
    assert violated(ask(provider_options={key: None})) == [f"provider_options.{key}"]


def test_options_that_the_request_does_not_set_are_merged_into_the_body():
    options = {
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "service_tier": "flex",
    }
    body = body_of(ask(provider_options=options))
    assert {key: body[key] for key in options} == options


texts = st.text(min_size=1, max_size=20)
names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
signatures = st.one_of(texts, st.builds(sign, texts, texts))
json_objects = st.dictionaries(texts, st.integers() | texts, max_size=2).map(json.dumps)
documents = st.builds(
    Document,
    data=st.just(b"text"),
    media_type=st.sampled_from(["application/pdf", "text/plain"]),
    title=st.text(max_size=9),
) | st.builds(Document, uri=st.just("https://e.example/a"))
images = st.builds(Image, uri=st.just("https://e.example/a")) | st.builds(
    Image, data=st.binary(min_size=1), media_type=st.just("image/png")
)


def messages(role: str, part: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    parts = st.lists(part, min_size=1, max_size=4).map(tuple)
    return st.builds(Message, st.just(role), parts)


requests = st.builds(
    ChatRequest,
    model=names,
    messages=st.lists(
        st.one_of(
            messages("system", st.builds(Text, texts)),
            messages("user", st.one_of(st.builds(Text, texts), images, documents)),
            messages(
                "assistant",
                st.one_of(
                    st.builds(Text, texts),
                    st.builds(Reasoning, st.text(max_size=9), signatures),
                    st.builds(ToolCall, names, names, json_objects),
                ),
            ),
            messages(
                "tool",
                st.builds(
                    ToolResult,
                    names,
                    st.text(max_size=9),
                    st.booleans(),
                    parts=st.lists(images | documents, max_size=2).map(tuple),
                ),
            ),
        ),
        min_size=1,
        max_size=5,
    ).map(tuple),
    generation=st.builds(
        Generation,
        max_output_tokens=st.none() | st.integers(1, 99),
        temperature=st.none() | st.floats(0, 2),
        top_p=st.none() | st.floats(0.1, 1),
        seed=st.none() | st.just(7),
        reasoning_effort=st.sampled_from([None, *get_args(Effort)]),
        reasoning_summary=st.sampled_from([None, *get_args(ReasoningSummary)]),
        top_logprobs=st.none() | st.integers(0, 20),
        service_tier=st.sampled_from(["", "flex", "priority"]),
    ),
    tools=st.lists(st.builds(Tool, names, st.text(max_size=9), json_objects), max_size=2).map(
        tuple
    ),
    tool_choice=st.none()
    | st.sampled_from([ToolChoice("auto", parallel=True), ToolChoice("tool", "a")]),
    response_format=st.none()
    | st.just(JsonFormat())
    | st.builds(JsonSchemaFormat, names, json_objects, st.booleans()),
    provider_options=st.dictionaries(
        st.sampled_from(["store", "include", "user", "service_tier"]), st.just("auto"), max_size=2
    ).filter(lambda options: "include" not in options),
)


@settings(max_examples=scaled(150))
@given(requests)
def test_a_request_that_passes_the_check_is_valid_for_the_sdks_types(request):
    if list(OpenAIResponses().check(request, CONFIG)):
        return
    body = body_of(request)
    assert body["input"]
    assert whole(sdk_types().validate_python(body)) == body
