"""Requests in JSON: protobuf's mapping, the short form, and every fault with its path."""

import asyncio
import json
import math

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenwire.v1 import chat_pb2, event_pb2, usage_pb2
from tokenwire.v1.chat_pb2 import ROLE_USER, ChatRequest
from tokenwire_edge.problems import Problem
from tokenwire_edge.requests import (
    chat_request_of,
    message_of_query,
    parse_chat_request,
    parse_json_object,
    parse_message,
    parse_without_blocking,
)

INT64S = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=9),
    # ProtoJSON has a single NaN. Hypothesis also generates NaNs with other bits.
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False) | st.just(math.nan),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: INT64S,
    FieldDescriptor.TYPE_STRING: TEXTS,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def messages(draw, descriptor, depth=0):
    """Draw a message of any type that the API has, with any of its fields set."""
    message = GetMessageClass(descriptor)()
    match descriptor.name:
        case "Struct":
            message.update(draw(st.dictionaries(TEXTS, JSON, max_size=3)))
            return message
        case "Duration":
            seconds, nanos = draw(st.integers(-(10**11), 10**11)), draw(st.integers(0, 999_999_999))
            return type(message)(seconds=seconds, nanos=nanos if seconds >= 0 else -nanos)
        case "Timestamp":
            seconds = draw(st.integers(-62135596800, 253402300799))
            return type(message)(seconds=seconds, nanos=draw(st.integers(0, 999_999_999)))
    deep = depth > 4
    usable = [each for each in descriptor.fields if not (deep and each.message_type)]
    for field in draw(st.lists(st.sampled_from(usable), max_size=4, unique=True)) if usable else ():
        count = draw(st.integers(0, 2)) if field.is_repeated else 1
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = SCALARS[field.message_type.fields_by_name["value"].type]
            getattr(message, field.name).update(draw(st.dictionaries(TEXTS, value, max_size=2)))
            continue
        if field.message_type is not None:
            drawn = [draw(messages(field.message_type, depth + 1)) for _ in range(count)]
        elif field.enum_type is not None:
            drawn = [draw(st.sampled_from([*field.enum_type.values_by_number, 77]))] * count
        else:
            drawn = [draw(SCALARS[field.type]) for _ in range(count)]
        if field.is_repeated:
            getattr(message, field.name).extend(drawn)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(drawn[0])
        else:
            setattr(message, field.name, drawn[0])
    return message


ANY_MESSAGE = st.sampled_from(
    [ChatRequest, event_pb2.TokenEvent, usage_pb2.UsageRecord, usage_pb2.ListUsageRecordsRequest]
).flatmap(lambda kind: messages(kind.DESCRIPTOR))


def binary(message):
    return message.SerializeToString(deterministic=True)  # NaN is equal to itself


def problem(body, parse=parse_chat_request):
    with pytest.raises(Problem) as raised:
        parse(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert (raised.value.status, raised.value.reason) == (400, "INVALID_REQUEST")
    raised.value.body()  # can be encoded
    return raised.value


def violations(body):
    return dict(problem(body).violations)


@given(ANY_MESSAGE, st.booleans(), st.booleans())
def test_every_message_is_read_back_from_its_json(message, snake_case, ascii_only):
    text = json_format.MessageToJson(
        message, preserving_proto_field_name=snake_case, ensure_ascii=ascii_only
    )
    assert binary(parse_message(text.encode(), type(message))) == binary(message)


def parameters(fields, prefix=""):
    """Yield the parameters of a query for the JSON of a message."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from parameters(value, f"{prefix}{name}.")
        else:
            for each in value if isinstance(value, list) else [value]:
                yield prefix + name, each if isinstance(each, str) else json.dumps(each)


@given(messages(usage_pb2.ListUsageRecordsRequest.DESCRIPTOR), st.booleans())
def test_every_message_without_empty_parts_is_read_back_from_its_query(message, snake_case):
    unnamed = set(message.filter.outcomes) - set(usage_pb2.UsageOutcome.values())
    assume(not unnamed and "" not in message.filter.labels)
    if not message.filter.ListFields():
        message.ClearField("filter")
    fields = json_format.MessageToDict(message, preserving_proto_field_name=snake_case)
    assert message_of_query(parameters(fields), type(message)) == message


NAMES = [
    "",
    "filter",
    "filter.",
    "filter.labels",
    "filter.labels.a",
    "filter.startTime",
    "filter.startTime.seconds",
    "pageSize",
    "page_size",
    "filter.models",
    "filter.outcomes.",
    ".",
    "é",
]


@given(st.lists(st.tuples(st.sampled_from(NAMES), TEXTS)))
def test_any_query_is_a_request_or_a_problem(query):
    try:
        message_of_query(query, usage_pb2.ListUsageRecordsRequest)
    except Problem as refused:
        assert refused.violations
        refused.body()


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        [0.5, 1.0, 1e30, -(2.0**31), "", "x", "1", "-0", "1e3", "1.5", "AQ==", "_-8", "5s"]
    ),
    st.sampled_from(["2026-01-31T12:00:00Z", "2026-13-31T12:00:00Z", "ROLE_USER", "NaN", "nan"]),
    st.sampled_from([[], [None], [[]], [1], ["a"], {}, {"a": None}, {"": {}}, {"text": "a"}]),
)


@given(messages(ChatRequest.DESCRIPTOR), st.booleans(), st.data())
def test_what_the_library_accepts_is_read_equally_and_everything_else_is_a_violation(
    message, snake_case, data
):
    value = json_format.MessageToDict(message, preserving_proto_field_name=snake_case)
    places, pending = [], [value]
    while pending:
        container = pending.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            places.append((container, key))
            if isinstance(container[key], (dict, list)):
                pending.append(container[key])
    for _ in range(data.draw(st.integers(1, 2)) if places else 0):
        container, key = data.draw(st.sampled_from(places))
        container[key] = data.draw(JUNK)
    body = json.dumps(value).encode()
    try:
        expected = json_format.Parse(body, ChatRequest())
    except json_format.ParseError:
        expected = None
    try:
        found = parse_chat_request(body)
    except Problem as refused:
        assert refused.violations
        assert expected is None or all(_is_stricter(text) for _, text in refused.violations)
    else:
        assert expected is not None
        assert binary(found) == binary(expected)


def _is_stricter(description):
    """Whether it is of what the library accepts and changes without notice: see messages.py."""
    beginnings = (
        "is not base64",
        'is "',
        "is 0.5",
        "must be a number, not a boolean",
        "must be a whole number, not a boolean",
        "must be an object",
    )
    return description.startswith(beginnings)


@given(
    st.binary(max_size=40)
    | st.text(max_size=40).map(str.encode)
    | JSON.map(json.dumps).map(str.encode)
)
def test_any_body_is_a_request_or_a_problem(body):
    try:
        parse_chat_request(body)
    except Problem as refused:
        refused.body()


def test_all_faults_are_found_each_with_the_servers_path():
    body = {
        "model": 7,
        "messages": [
            {
                "role": "user",
                "parts": [{"text": "a"}, {"image": {"mediaType": 1, "data": "?"}}, None],
            },
            "hello",
            {"parts": {"text": "a"}},
        ],
        "generation": {"maxOutputTokens": 1.5, "temperature": "hot", "topK": True, "seed": 2**63},
        "response_format": {"json": {}, "text": {}},
        "labels": {"team": None, "a": "b"},
        "cache": {"ttl": "5m"},
        "provider_options": {"a": [1, "\ud800"]},
        "toolChoice": {"mode": "ANY"},
        "max_tokens": 5,
    }
    assert violations(body) == {
        "model": "must be a string, not a number",
        "messages[0].role": 'is "user"; did you mean ROLE_USER?',
        "messages[0].parts[1].image.media_type": "must be a string, not a number",
        "messages[0].parts[1].image.data": 'is not base64: the character at 0 is "?"',
        "messages[0].parts[2]": "must be an object, not null",
        "messages[1]": "must be an object, not a string",
        "messages[2].parts": "must be a list, not an object",
        "generation.max_output_tokens": "is 1.5; it must be a whole number from "
        "-9223372036854775808 to 9223372036854775807",
        "generation.temperature": 'is "hot"; it must be a number',
        "generation.top_k": "must be a whole number, not a boolean",
        "generation.seed": "is 9223372036854775808; it must be a whole number from "
        "-9223372036854775808 to 9223372036854775807",
        "response_format.text": "is given beside another of text, json, json_schema, regex, grammar: "
        "only one is allowed",
        "labels.team": "must be a string, not null",
        "cache.ttl": 'is "5m"; it must be a duration: a string of seconds, such as "1.5s"',
        "provider_options.a[1]": "contains half of a UTF-16 surrogate pair",
        "tool_choice.mode": 'is "ANY"; it must be one of TOOL_CHOICE_MODE_AUTO, TOOL_CHOICE_MODE_NONE, '
        "TOOL_CHOICE_MODE_REQUIRED, TOOL_CHOICE_MODE_TOOL",
        "max_tokens": "is not a field of ChatRequest",
    }


def test_a_misspelled_field_is_named_with_the_nearest_one():
    body = {"generation": {"maxOutputToken": 5}}
    assert violations(body) == {
        "generation.maxOutputToken": "is not a field of GenerationConfig; did you mean max_output_tokens?"
    }


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the body is empty; it must be a JSON object"),
        (b" \n", "the body is empty; it must be a JSON object"),
        (b"[1]", "the body must be a JSON object, not a list"),
        (b'{"model": "m",\n "prompt" 1}', "the body is not JSON: expecting ':' delimiter at line 2, column 11"),
        (b'{"model": "m"} x', "the body is not JSON: extra data at line 1, column 16"),
        (b'{"model":\n"\xc3\xa9\xff"}', "the body is not UTF-8 at line 2, column 3"),
        ("{}".encode("utf-16"), "the body is not UTF-8 at line 1, column 1"),
        (b"\xef\xbb\xbf{}", "the body begins with a byte order mark; JSON has none"),
        (b'{"model": "a\nb"}', "the body is not JSON: invalid control character at line 1, column 13"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (b'{"a":' + b"9" * 5000 + b"}", "the body contains a number of more than 4,300 digits"),
        (b'{"a":[' + b"[]," * 130_000 + b"1]}", "the body has more than 250,000 commas, lists and objects"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_body_that_is_not_a_json_object_is_refused_with_the_place(body, detail):
    assert problem(body).detail == detail


def test_keys_given_twice_and_numbers_that_json_lacks_are_refused_with_their_paths():
    body = b'{"a": [{"b": 1, "b": 2}], "c": NaN, "d": [-Infinity], "a": {"e": {"f": 1, "f": 1, "f": 1}}}'
    assert problem(body, parse_json_object).violations == (
        ("a", "is given twice"),
        ("a.e.f", "is given twice"),
        ("a.e.f", "is given twice"),
        ("c", "is NaN, which is not JSON"),
        ("d[0]", "is -Infinity, which is not JSON"),
    )
    both = {"generation": {"maxOutputTokens": 1, "max_output_tokens": 1}}
    assert violations(both) == {
        "generation.max_output_tokens": "is given twice, also in the other spelling of its name"
    }


def test_a_prompt_is_one_message_of_the_user_and_allowed_beside_everything_but_messages():
    request = parse_chat_request(
        b'{"prompt": "Hi", "model": "m", "cache": {"ttl": "5s"}, "messages": null}'
    )
    assert request == ChatRequest(
        model="m",
        messages=[chat_pb2.Message(role=ROLE_USER, parts=[chat_pb2.Part(text="Hi")])],
        cache=chat_pb2.CacheOptions(ttl={"seconds": 5}),
    )
    assert parse_chat_request(b'{"prompt": null}') == ChatRequest()
    assert violations({"prompt": "a", "messages": []}) == {
        "prompt": "is only allowed without messages"
    }
    assert violations({"prompt": ["a"], "model": 1}) == {
        "prompt": "must be a string, not a list",
        "model": "must be a string, not a number",
    }
    assert violations({"prompt": ""}) == {"prompt": "is empty"}


def test_the_path_of_a_request_inside_a_frame_begins_there():
    with pytest.raises(Problem) as raised:
        chat_request_of({"prompt": "", "modle": 1}, "request")
    assert [path for path, _ in raised.value.violations] == ["request.prompt", "request.modle"]


def test_violations_are_bounded_and_the_detail_says_that_there_are_more():
    refused = problem({"messages": [1] * 1000})
    assert len(refused.violations) == 100
    assert refused.detail == "messages[0]: must be an object, not a number (and at least 99 more)"
    long_path = problem(
        {"provider_options": {"a" * 1000: {"b" * 1000: [{"c" * 1000: {"d" * 1000: "\ud800"}}]}}}
    )
    assert len(long_path.violations[0][0]) < 300


@pytest.mark.parametrize("nested", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_what_is_accepted_is_not_nested_deeper_than_the_server_can_read(nested):
    options, accepted = 1, 0
    while True:
        options = nested(options)
        try:
            request = parse_chat_request(json.dumps({"provider_options": {"a": options}}).encode())
        except Problem as refused:
            assert refused.violations[0][1] == "is nested too deeply"
            break
        assert ChatRequest.FromString(request.SerializeToString()) == request
        accepted += 1
    assert accepted > 30


async def test_large_bodies_do_not_block_the_event_loop():
    body = json.dumps({"provider_options": {"a": [[1]] * 60_000}}).encode()
    task = asyncio.create_task(parse_without_blocking(parse_chat_request, body))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    assert len((await task).provider_options["a"]) == 60_000
    assert turns > 3
