import asyncio
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

import tokenwire
from tokenwire.v1.chat_pb2 import (
    CACHE_MODE_READ_WRITE,
    ON_DISCONNECT_CANCEL,
    ON_DISCONNECT_CONTINUE,
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_TOOL,
    ROLE_USER,
    Audio,
    ChatRequest,
    Document,
    GenerationConfig,
    Message,
    Part,
    ToolResult,
)
from tokenwire.v1.event_pb2 import ToolCall
from tokenwire.wire.requests import build_request, build_resume, outliving_its_readers


def test_a_string_is_a_user_message():
    request = build_request("openai/demo", "Hello")

    assert request == ChatRequest(
        model="openai/demo", messages=[Message(role=ROLE_USER, parts=[Part(text="Hello")])]
    )


def test_a_conversation_can_mix_messages_mappings_and_strings():
    call = Message(
        role=ROLE_ASSISTANT,
        parts=[Part(tool_call=ToolCall(id="c1", name="look", arguments_json="{}"))],
    )
    picture = tokenwire.image("https://example.com/cat.png")
    messages = [
        {"role": "system", "content": "Be brief."},
        tokenwire.user("What is this?", picture),
        call,
        tokenwire.tool_result("c1", "a cat", is_error=True),
        {"role": "assistant", "text": "A cat."},
        {"role": "user", "content": ["And this?", tokenwire.image(b"\x89PNG", "image/png")]},
        "Thanks.",
    ]

    sent = build_request("m", messages).messages

    assert [message.role for message in sent] == [
        ROLE_SYSTEM,
        ROLE_USER,
        ROLE_ASSISTANT,
        ROLE_TOOL,
        ROLE_ASSISTANT,
        ROLE_USER,
        ROLE_USER,
    ]
    assert sent[1].parts[1].image.uri == "https://example.com/cat.png"
    assert sent[2] == call
    assert sent[3].parts[0].tool_result.text == "a cat"
    assert sent[3].parts[0].tool_result.is_error
    assert sent[5].parts[1].image.data == b"\x89PNG"
    assert sent[6].parts[0].text == "Thanks."


def test_every_field_of_chat_request_is_a_keyword():
    fields = {
        "generation": {"max_output_tokens": 5, "reasoning": {"effort": "REASONING_EFFORT_LOW"}},
        "tools": [tokenwire.tool("f", "does f", parameters={"type": "object"}), {"name": "g"}],
        "tool_choice": {"mode": "TOOL_CHOICE_MODE_TOOL", "tool_name": "f"},
        "response_format": {"json_schema": {"name": "s", "schema_json": "{}", "strict": True}},
        "delivery": tokenwire.delivery(heartbeat_s=1.5, usage_s=2),
        "retention": {"on_disconnect": "ON_DISCONNECT_CONTINUE", "linger": timedelta(seconds=9)},
        "budget": {"max_cost_microusd": 0, "max_input_tokens": 9},
        "cache": tokenwire.cache(ttl_s=60),
        "fallback_models": ["a/m", "b/m"],
        "request_id": "r-1",
        "labels": {"team": "search"},
        "provider_options": {"store": False, "metadata": {"a": ["b", 1]}},
    }
    other_arguments = {"model", "messages", "token_counting"}  # the last by `count_tokens`
    assert {*other_arguments, *fields} == set(ChatRequest.DESCRIPTOR.fields_by_name)

    request = build_request("m", "Hi", **fields)

    assert request.generation.max_output_tokens == 5
    assert request.tools[0].parameters_json_schema == '{"type": "object"}'
    assert [tool.name for tool in request.tools] == ["f", "g"]
    assert request.tool_choice.tool_name == "f"
    assert request.response_format.json_schema.strict
    assert request.delivery.heartbeat_interval == Duration(seconds=1, nanos=500_000_000)
    assert request.delivery.usage_interval == Duration(seconds=2)
    assert request.retention.on_disconnect == ON_DISCONNECT_CONTINUE
    assert request.retention.linger == Duration(seconds=9)
    assert (request.cache.mode, request.cache.ttl.seconds) == (CACHE_MODE_READ_WRITE, 60)
    assert request.request_id == "r-1"
    assert request.budget.HasField("max_cost_microusd")
    assert (request.budget.max_cost_microusd, request.budget.max_input_tokens) == (0, 9)
    assert dict(request.labels) == {"team": "search"}
    assert request.provider_options["metadata"]["a"][0] == "b"


def test_the_budget_can_be_given_as_keywords():
    cost = build_request("m", "Hi", max_cost_microusd=0).budget
    both = build_request("m", "Hi", budget={"max_input_tokens": 9}, max_cost_microusd=7).budget

    assert (cost.HasField("max_cost_microusd"), cost.HasField("max_input_tokens")) == (True, False)
    assert both == tokenwire.Budget(max_cost_microusd=7, max_input_tokens=9)
    assert not build_request("m", "Hi", max_cost_microusd=None).HasField("budget")


def test_protobuf_messages_are_accepted_unchanged():
    whole = ChatRequest(model="m", generation=GenerationConfig(seed=1))

    assert build_request(whole) is whole
    generation = GenerationConfig(temperature=0.5)
    assert build_request("m", "Hi", generation=generation).generation == generation


@pytest.mark.parametrize(
    ("arguments", "fields", "kind", "says"),
    [
        (("m",), {}, TypeError, "messages are missing"),
        ((ChatRequest(), "Hi"), {}, TypeError, "cannot be combined"),
        ((ChatRequest(),), {"tools": []}, TypeError, "cannot be combined"),
        (("m", "Hi"), {"temprature": 1}, TypeError, "'temprature': did you mean temperature"),
        (("m", "Hi"), {"labels": {"n": 1}}, TypeError, "labels.n: must be a str, not int"),
        (
            ("m", "Hi"),
            {"budget": {"max_input_tokens": 1}, "max_input_tokens": 1},
            ValueError,
            "given twice",
        ),
        (("m", [5]), {}, TypeError, "not a message: int"),
        (("m", {"role": "robot", "text": "Hi"}), {}, ValueError, "role: must be one of"),
        (("m", {"role": "user"}), {}, ValueError, "one of 'content', 'text'"),
        (("m", {"role": "user", "text": "a", "nme": "b"}), {}, ValueError, "nme"),
        (("m", {"role": "user", "content": 5}), {}, TypeError, "text or parts, not int"),
        (
            ("m", {"role": "user", "content": [5]}),
            {},
            TypeError,
            "a str, a Part or a mapping, not int",
        ),
    ],
)
def test_invalid_arguments_raise_before_anything_is_sent(arguments, fields, kind, says):
    with pytest.raises(kind, match=says):
        build_request(*arguments, **fields)


def test_documents_and_audio_are_parts():
    message = tokenwire.user(
        tokenwire.document("https://example.com/a.pdf", title="A"),
        tokenwire.document(b"text", "text/plain"),
        tokenwire.audio(b"RIFF", "audio/wav"),
    )

    assert [part.WhichOneof("content") for part in message.parts] == ["document"] * 2 + ["audio"]
    assert message.parts[0].document == Document(uri="https://example.com/a.pdf", title="A")
    assert message.parts[1].document == Document(data=b"text", media_type="text/plain")
    assert message.parts[2].audio == Audio(data=b"RIFF", media_type="audio/wav")


def test_a_tool_result_can_have_more_parts_than_its_text():
    picture = tokenwire.image("https://example.com/cat.png")

    (part,) = tokenwire.tool_result("c1", "two cats", picture, "and a dog").parts

    assert part.tool_result == ToolResult(
        tool_call_id="c1", text="two cats", parts=[picture, Part(text="and a dog")]
    )


@pytest.mark.parametrize("make", [tokenwire.image, tokenwire.document])
def test_bytes_require_a_media_type(make):
    with pytest.raises(ValueError, match="media type"):
        make(b"\x89PNG")


def test_retention_in_seconds():
    options = tokenwire.retention("cancel", linger_s=0.25, log_ttl_s=0, soft_deadline_margin_s=1e-9)

    assert options.on_disconnect == ON_DISCONNECT_CANCEL
    assert options.linger == Duration(nanos=250_000_000)
    assert options.HasField("log_ttl")
    assert options.log_ttl == Duration()
    assert options.soft_deadline_margin == Duration(nanos=1)
    assert tokenwire.retention() == tokenwire.RetentionOptions()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tokenwire.retention("keep"), "'cancel' or 'continue'"),
        (lambda: tokenwire.cache("always"), "off, read_write, refresh"),
        (lambda: tokenwire.delivery(heartbeat_s=float("inf")), "not a number of seconds"),
        (lambda: tokenwire.cache(ttl_s=float("nan")), "not a number of seconds"),
    ],
)
def test_invalid_options_raise_before_anything_is_sent(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_resumable_request_has_a_linger():
    plain = build_request("m", "Hi")
    own = build_request("m", "Hi", retention=tokenwire.retention(linger_s=5, log_ttl_s=7))

    assert outliving_its_readers(plain).retention == tokenwire.retention("continue", linger_s=30)
    assert outliving_its_readers(own).retention == tokenwire.retention(
        "continue", linger_s=5, log_ttl_s=7
    )
    assert not plain.HasField("retention")  # the caller's own message is unchanged


def test_on_disconnect_cancel_contradicts_resumable():
    request = build_request("m", "Hi", retention=tokenwire.retention("cancel"))

    with pytest.raises(ValueError, match="resumable=False"):
        outliving_its_readers(request)
    for client in (tokenwire.AsyncClient(resumable=True), tokenwire.Client(resumable=True)):
        with pytest.raises(ValueError, match="cannot be resumable"):
            client.chat_stream(request)
        client.chat_stream(request, resumable=False)


def test_a_resume_request_has_delivery_options():
    request = build_resume("st_1", 7, {"heartbeat_interval": Duration(seconds=3)})

    assert (request.stream_id, request.after_sequence) == ("st_1", 7)
    assert request.delivery.heartbeat_interval.seconds == 3
    with pytest.raises(ValueError, match="range"):
        build_resume("st_1", 2**63, None)
    with pytest.raises(TypeError, match=r"not tuple; pass a cursor as resume\(\*cursor\)"):
        build_resume(("st_1", 7), 0, None)


def test_a_schema_is_sent_without_needless_characters():
    schema = {"type": "object", "properties": {"größe": {"enum": [1, 2]}}}
    sent = tokenwire.json_format("s", schema).json_schema.schema_json
    assert sent == '{"type":"object","properties":{"größe":{"enum":[1,2]}}}'


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"labels": ["x"]}, "labels: must be a mapping, not list"),
        ({"labels": {"team": 1}}, "labels.team: must be a str, not int"),
        ({"request_id": 5}, "request_id: must be a str, not int"),
        ({"max_cost_microusd": 1.5}, "max_cost_microusd: must be an int, not float"),
        ({"fallback_models": "openai/demo"}, "fallback_models: must be a list, not str"),
        ({"fallback_models": [1]}, "fallback_models: must be a str, not int"),
        ({"tools": print}, "tools: must be a list, not builtin_function_or_method"),
        ({"stop_sequences": 5}, "stop_sequences: must be a list, not int"),
        ({"provider_options": 5}, "provider_options: must be a mapping, not int"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(fields, says):
    with pytest.raises(TypeError) as caught:
        build_request("m", "Hi", **fields)

    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: build_request(5, "Hi"), "model: must be a str, not int"),
        (lambda: tokenwire.Client(50051), "target: must be a str, not int"),
        (lambda: tokenwire.Client(key=5), "key: must be a str, not int"),
        (lambda: tokenwire.Client(max_retries="2"), "max_retries: must be an int, not str"),
        (
            lambda: tokenwire.Client().chat("m", "Hi", timeout=timedelta(seconds=5)),
            "timeout: must be a number of seconds or None, not timedelta",
        ),
        (
            lambda: tokenwire.Client().chat_stream("m", "Hi", timeout="5"),
            "timeout: must be a number of seconds or None, not str",
        ),
        (
            lambda: tokenwire.Client("host:1", tls="ca.pem"),
            "tls: must be True, False, a Tls or None, not str",
        ),
        (
            lambda: tokenwire.Client("host:1", tls=tokenwire.Tls(ca=5)),
            "tls.ca: must be a path, not int",
        ),
        (
            lambda: tokenwire.Client(options={"grpc.a": 1}),
            "options: must be a list, not dict",
        ),
        (lambda: tokenwire.Client().get_stream(5), "stream_id: must be a str, not int"),
        (lambda: tokenwire.Client().cancel(5), "stream_id: must be a str, not int"),
        (lambda: tokenwire.Client().delete(5), "stream_id: must be a str, not int"),
        (lambda: tokenwire.Client().get_model(5), "model: must be a str, not int"),
        (
            lambda: tokenwire.Client().resume("st_1", "7"),
            "after_sequence: must be an int, not str",
        ),
        (
            lambda: tokenwire.Client().continue_from("st_1"),
            "stream: must be a ChatStream, not str",
        ),
        (
            lambda: asyncio.run(tokenwire.AsyncClient().continue_from("st_1")),
            "stream: must be an AsyncChatStream, not str",
        ),
        (
            lambda: tokenwire.Client().usage_records(since="yesterday"),
            "since: must be a datetime, not str",
        ),
        (lambda: tokenwire.Client().usage_records(models=5), "models: must be a list, not int"),
        (lambda: tokenwire.Client().usage_records(models=[5]), "models: must be a str, not int"),
        (
            lambda: tokenwire.Client().usage_records(labels=["a"]),
            "labels: must be a mapping, not list",
        ),
        (
            lambda: tokenwire.Client().usage_records(outcomes=[["open"]]),
            "outcomes: must be a str, not list",
        ),
        (
            lambda: tokenwire.Client().usage_records(key_prefix=5),
            "key_prefix: must be a str, not int",
        ),
        (
            lambda: tokenwire.Client().usage_records(page_size="9"),
            "page_size: must be an int, not str",
        ),
        (lambda: tokenwire.Client().usage_summary(group_by=5), "group_by: must be a list, not int"),
        (
            lambda: tokenwire.Client().usage_summary(label_key=5),
            "label_key: must be a str, not int",
        ),
        *(
            (
                lambda option=option, value=value: tokenwire.Client().run_tools(
                    "m", "Hi", tools=[], **{option: value}
                ),
                f"{option}: must be {accepted}, not {type(value).__name__}",
            )
            for option, value, accepted in (
                ("max_rounds", "x", "an int"),
                ("max_rounds", 1.5, "an int"),
                ("max_concurrency", "x", "an int"),
                ("max_cost_microusd", "x", "an int"),
                ("max_retries", "x", "an int"),
                ("tool_timeout", "x", "a number of seconds or None"),
                ("timeout", "x", "a number of seconds or None"),
            )
        ),
        (
            lambda: tokenwire.Client().conversation("m", trim=20),
            "trim: must be a function, such as keep_last(20), or None, not int",
        ),
        (lambda: tokenwire.keep_last("20"), "count: must be an int, not str"),
        (
            lambda: tokenwire.delivery(heartbeat_s="5"),
            "heartbeat_s: must be a number of seconds or None, not str",
        ),
        (
            lambda: tokenwire.retention("continue", linger_s=timedelta(seconds=5)),
            "linger_s: must be a number of seconds or None, not timedelta",
        ),
        (
            lambda: tokenwire.cache(ttl_s="60"),
            "ttl_s: must be a number of seconds or None, not str",
        ),
        (
            lambda: tokenwire.Client().run_tools("m", "Hi", tools=print),
            "tools: must be a list, not builtin_function_or_method",
        ),
        (
            lambda: tokenwire.Client().run_tools("m", "Hi", tools=[None]),
            "a tool is a function, not NoneType",
        ),
        (lambda: tokenwire.tool("a", parameters="{}"), "parameters: must be a mapping, not str"),
        (lambda: tokenwire.json_format({}, "plan"), "name: must be a str, not dict"),
        (lambda: tokenwire.json_format("plan", dict), "schema: must be a mapping, not type"),
        (
            lambda: tokenwire.tool_result("c1", {"degrees": 12}),
            "text: must be a str, not dict; json.dumps returns a value as text",
        ),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(call, says):
    with pytest.raises(TypeError) as caught:
        call()

    assert str(caught.value) == says
