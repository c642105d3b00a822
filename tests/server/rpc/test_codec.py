from enum import Enum
from sys import getsizeof
from typing import get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.events import (
    Citation,
    Event,
    Finished,
    FinishReason,
    InvalidToolCall,
    JsonResult,
    JsonValue,
    JsonViolation,
    Logprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tokenwire_server.rpc.answer import AnswerBuilder
from tokenwire_server.rpc.codec import MAX_SHORT_CHARS, encode, to_proto

FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=Usage(
        1,
        2,
        reasoning_tokens=3,
        cache_read_tokens=4,
        cache_write_tokens=5,
        long_cache_write_tokens=6,
        server_tools=(("web_search", 7),),
        service_tier="flex",
    ),
    timings=Timings(
        duration_s=4.5, ttft_s=0.25, itl_p50_s=0.02, itl_p99_s=0.5, output_tokens_per_second=12.5
    ),
    provider_response_id="r",
)


def test_each_timing_is_in_its_own_field():
    timings = to_proto(3, FINISHED).finished.timings
    assert timings.duration.ToMilliseconds() == 4500
    assert timings.ttft.ToMilliseconds() == 250
    assert timings.itl_p50.ToMilliseconds() == 20
    assert timings.itl_p99.ToMilliseconds() == 500
    assert timings.output_tokens_per_second == 12.5


def test_a_timing_that_was_not_measured_is_absent_and_not_zero():
    bare = Finished(FinishReason.STOP, "m", "p", Usage(1, 2), Timings(duration_s=1.0))
    finished = to_proto(2, bare).finished
    for name in ("ttft", "itl_p50", "itl_p99", "output_tokens_per_second"):
        assert not finished.timings.HasField(name)
    for name in (
        "reasoning_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "long_cache_write_tokens",
    ):
        assert not finished.usage.HasField(name)


def test_each_count_is_in_its_own_field():
    usage = to_proto(3, FINISHED).finished.usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (1, 2, 3)
    assert (usage.cache_read_tokens, usage.cache_write_tokens) == (4, 5)
    assert (usage.long_cache_write_tokens, usage.server_tool_counts["web_search"]) == (6, 7)
    assert usage.service_tier == "flex"


def test_started_has_the_creation_time():
    event = to_proto(1, Started("id", "m", "p", created_time=1_700_000_000.25))
    assert event.started.created_time.ToMilliseconds() == 1_700_000_000_250


WITH_TEXT = {
    TextDelta: lambda text: TextDelta(text, 0),
    ReasoningDelta: lambda text: ReasoningDelta(text, 0),
    ToolCallDelta: lambda text: ToolCallDelta(0, text),
    ToolCall: lambda text: ToolCall(0, "id", "name", text),
    InvalidToolCall: lambda text: InvalidToolCall(0, "id", "name", text, "is not JSON"),
    Citation: lambda text: Citation(0, cited_text=text, title=text, url=text),
    Logprobs: lambda text: Logprobs(0, (TokenLogprob(text, -1.0),)),
    JsonValue: lambda text: JsonValue(0, text, text),
    JsonResult: lambda text: JsonResult(False, (JsonViolation(text, text),)),
}
"""Events with a text of any length."""


@pytest.mark.parametrize("words", [1000, MAX_SHORT_CHARS // 2])
@pytest.mark.parametrize("kind", WITH_TEXT)
def test_encoding_an_entry_caches_nothing_in_its_text(kind, words):
    text = "".join(["w\u8bcd"] * words)
    entry = WITH_TEXT[kind](text)
    before = getsizeof(text)
    encode(1, entry)
    answer = AnswerBuilder()
    answer.add([entry])
    answer.response()
    assert getsizeof(text) == before


def value(kind, number, depth=0):
    """Return a value of a type; another number gives another value."""
    arguments = [argument for argument in get_args(kind) if argument is not type(None)]
    if get_origin(kind) is tuple:
        if ... not in arguments:
            return tuple(value(argument, number, depth) for argument in arguments)
        return () if depth > 1 else (value(arguments[0], number, depth + 1),)
    if arguments:
        return value(arguments[0], number, depth)
    if issubclass(kind, Enum):
        return list(kind)[number % len(kind)]
    if issubclass(kind, msgspec.Struct):
        return kind(*(value(field.type, number, depth) for field in msgspec.structs.fields(kind)))
    return str(number).encode() if kind is bytes else kind(number)


FIELDS = [(kind, field) for kind in get_args(Event) for field in msgspec.structs.fields(kind)]


@pytest.mark.parametrize(
    ("kind", "field"), [pytest.param(k, f, id=f"{k.__name__}-{f.name}") for k, f in FIELDS]
)
def test_every_field_of_every_event_is_encoded(kind, field):
    event = value(kind, 2)
    changed = msgspec.structs.replace(event, **{field.name: value(field.type, 3)})
    assert (to_proto(1, event) != to_proto(1, changed)) == (event != changed)


SEQUENCES = (
    st.integers(0, 300) | st.integers(128**2 - 300, 128**2 + 300) | st.integers(0, 2**63 - 1)
)
INDEXES = st.integers(0, 300) | st.integers(0, 2**31 - 1)
TEXTS = st.text(max_size=9) | st.text("x\0\u00e9\u8bcd\U0001f600", max_size=MAX_SHORT_CHARS + 2)
DELTAS = st.one_of(
    st.builds(TextDelta, TEXTS, INDEXES),
    st.builds(ToolCallDelta, INDEXES, TEXTS),
    st.builds(
        ReasoningDelta, TEXTS, INDEXES, st.sampled_from(["", "proof"]), st.sampled_from([b"", b"p"])
    ),
)


@given(SEQUENCES, DELTAS)
def test_a_delta_is_serialized_as_protobuf_serializes_it(sequence, delta):
    assert encode(sequence, delta) == to_proto(sequence, delta).SerializeToString()


def test_every_sequence_is_serialized_as_protobuf_serializes_it():
    delta = TextDelta("x", 0)
    for sequence in (*range(128**2 + 2), 128**3 - 1, 128**3, 2**63 - 1):
        assert encode(sequence, delta) == to_proto(sequence, delta).SerializeToString()


@pytest.mark.parametrize("char", ["x", "\0", "\u00e9", "\u8bcd", "\U0001f600"])
@pytest.mark.parametrize("index", [0, 1, ord("x"), 127, 128, 2**31 - 1])
def test_a_text_of_any_length_is_serialized_as_protobuf_serializes_it(index, char):
    for length in range(MAX_SHORT_CHARS + 2):
        text = char * length
        for delta in (
            TextDelta(text, index),
            ReasoningDelta(text, index),
            ToolCallDelta(index, text),
        ):
            assert encode(1, delta) == to_proto(1, delta).SerializeToString()


@pytest.mark.parametrize("text", ["\ud800", "x\udfff"])
def test_half_a_surrogate_pair_is_refused(text):
    with pytest.raises(UnicodeEncodeError):
        encode(1, TextDelta(text, 0))
