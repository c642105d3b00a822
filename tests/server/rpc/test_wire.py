"""The fields of a request are counted on its bytes as protobuf parses them."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire.v1 import chat_pb2, event_pb2
from tokenwire_server.errors import InvalidRequest
from tokenwire_server.rpc.wire import STEP_FIELDS, check_size, count_fields, parse_message

CHAT = chat_pb2.ChatRequest.DESCRIPTOR
MANY = 10**6


def counted(data, most=MANY):
    """Return the number of fields, and the number of steps that counting took."""
    counting, steps = count_fields(CHAT, data, most), 1
    while True:
        try:
            next(counting)
        except StopIteration as done:
            return done.value, steps
        steps += 1


def fields_of(message):
    """Return the number of fields of a message, according to protobuf."""
    found = 0
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in value:
                found += 3  # the entry, its key and its value, which are always written
                if field.message_type.fields_by_name["value"].message_type is not None:
                    found += fields_of(value[key])
            continue
        for each in value if field.is_repeated else [value]:
            found += 1 + (fields_of(each) if field.message_type is not None else 0)
    return found


def request(**options):
    made = chat_pb2.ChatRequest(
        model="openai/m",
        messages=[
            chat_pb2.Message(role=chat_pb2.ROLE_USER, parts=[chat_pb2.Part(text="x" * 300)]),
            chat_pb2.Message(
                role=chat_pb2.ROLE_ASSISTANT,
                parts=[
                    chat_pb2.Part(
                        tool_call=event_pb2.ToolCall(id="a", name="b", arguments_json="{}")
                    )
                ],
            ),
        ],
        generation=chat_pb2.GenerationConfig(temperature=1, seed=-1, stop_sequences=["a", "b"]),
        labels={"a": "b", "c": ""},
    )
    made.provider_options.update(options)
    return made


@pytest.mark.parametrize(
    "options", [{}, {"n": 1.5}, {"deep": {"list": [1, True, None, "s", [], {}, [[]]]}}], ids=str
)
def test_fields_at_every_depth_of_a_request_are_counted(options):
    made = request(**options)
    assert counted(made.SerializeToString()) == (fields_of(made), 1)


def test_an_unknown_group_is_counted_and_its_content_is_not_read_as_messages():
    group = b"\xa3\x06" + b"\x12\x01\xff" + b"\xa4\x06"  # field 100; in it field 2, not a message
    assert chat_pb2.ChatRequest.FromString(group)
    assert counted(group) == (3, 1)


@pytest.mark.parametrize("tag", [b"\x12", b"\x92\x00", b"\x92\x80\x00"], ids=bytes.hex)
def test_a_tag_with_a_long_encoding_is_the_same_field(tag):
    data = tag + b"\x02\x08\x02"
    assert len(chat_pb2.ChatRequest.FromString(data).messages) == 1
    assert counted(data) == (2, 1)


@settings(deadline=None)
@given(
    st.binary(max_size=60)
    | st.builds(
        bytes,
        st.lists(st.sampled_from(b"\x0a\x12\x03\x02\x01\x00\x13\x14\x80\x72\x6a\x08"), max_size=40),
    )
)
def test_data_that_counting_refuses_is_refused_by_protobuf_too(data):
    try:
        counted(data)
    except InvalidRequest:
        with pytest.raises(DecodeError):
            chat_pb2.ChatRequest.FromString(data)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\x12\x00" * 5000, "messages"),
        (b"\x12\x88\x27" + b"\x12\x00" * 2500, "messages"),
        (b"\x22\x00" * 5000, "tools"),
        (b"\x6a\x00" * 5000, "labels"),
        (b"\x72\x00" * 5000, "provider_options"),
        (b"\xa0\x06\x00" * 5000, ""),
    ],
    ids=["messages", "parts", "tools", "labels", "provider_options", "unknown"],
)
def test_counting_stops_at_the_bound_and_names_the_field_that_exceeds_it(data, field):
    for most in (1000, STEP_FIELDS - 1, STEP_FIELDS, STEP_FIELDS + 1):
        if most >= counted(data)[0]:
            continue
        with pytest.raises(InvalidRequest, match=f"more than {most} fields") as refused:
            counted(data + b"\xff" * 100, most)
        assert [violation.field for violation in refused.value.violations] == [field]


def test_other_tasks_can_run_while_many_fields_are_counted():
    assert counted(b"\x12\x00" * (10 * STEP_FIELDS + 1)) == (10 * STEP_FIELDS + 1, 11)


def test_requests_other_than_chats_are_limited_to_64_kib():
    data = chat_pb2.GetStreamRequest(stream_id="x" * 65_536).SerializeToString()
    with pytest.raises(InvalidRequest, match="65540 bytes; this server takes 65536"):
        parse_message(chat_pb2.GetStreamRequest, data)


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (
            chat_pb2.ChatRequest(
                model="m",
                messages=[
                    chat_pb2.Message(),
                    chat_pb2.Message(
                        role=chat_pb2.ROLE_USER,
                        parts=[
                            chat_pb2.Part(text="x" * 10),
                            chat_pb2.Part(image=chat_pb2.Image(data=b"x" * 2000)),
                        ],
                    ),
                ],
            ),
            "messages[1].parts[1].image.data",
        ),
        (chat_pb2.ChatRequest(model="x" * 2000), "model"),
        (chat_pb2.ChatRequest(labels={"a": "x" * 2000}), "labels"),
        (chat_pb2.ChatRequest(model="x" * 999, request_id="y" * 999), ""),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_request_that_is_too_large_names_the_field_that_takes_most_of_it(made, field):
    data = made.SerializeToString()
    for malformed in (b"", b"\xff"):
        with pytest.raises(InvalidRequest) as refused:
            check_size(CHAT, data + malformed, 1000)
        assert [violation.field for violation in refused.value.violations] == [field]


def test_provider_options_that_are_too_large_are_named_as_a_whole():
    made = chat_pb2.ChatRequest()
    made.provider_options.update({"a": "x" * 2000})
    with pytest.raises(InvalidRequest) as refused:
        check_size(CHAT, made.SerializeToString(), 1000)
    assert refused.value.violations[0].field == "provider_options"
