from sys import getsizeof

import pytest

from tokenwire_server.events import (
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Timings,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tokenwire_server.rpc.codec import AnswerBuilder, encode, to_proto

FINISHED = Finished(
    reason=FinishReason.STOP,
    model="m",
    provider="p",
    usage=Usage(1, 2, reasoning_tokens=3, cache_read_tokens=4, cache_write_tokens=5),
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
    for name in ("reasoning_tokens", "cache_read_tokens", "cache_write_tokens"):
        assert not finished.usage.HasField(name)


def test_each_count_is_in_its_own_field():
    usage = to_proto(3, FINISHED).finished.usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (1, 2, 3)
    assert (usage.cache_read_tokens, usage.cache_write_tokens) == (4, 5)


def test_started_has_the_creation_time():
    event = to_proto(1, Started("id", "m", "p", created_time=1_700_000_000.25))
    assert event.started.created_time.ToMilliseconds() == 1_700_000_000_250


def test_a_whole_answer_keeps_the_signature_of_each_reasoning_block():
    builder = AnswerBuilder(1 << 20)
    builder.add([Started("id", "m", "p", 0.0), ReasoningDelta("h", 0), ReasoningDelta("m", 0)])
    builder.add([ReasoningDelta("", 0, "proof"), TextDelta("yes", 1), ReasoningDelta("", 2, "2nd")])
    builder.add([FINISHED])
    first, text, second = builder.response().message.parts
    assert (first.reasoning.text, first.reasoning.signature) == ("hm", "proof")
    assert text.text == "yes"
    assert (second.reasoning.text, second.reasoning.signature) == ("", "2nd")


@pytest.mark.parametrize("of", [TextDelta, ReasoningDelta, ToolCallDelta, ToolCall])
def test_encoding_an_entry_caches_nothing_in_its_text(of):
    text = "".join(["w\u8bcd"] * 1000)
    entry = {
        TextDelta: TextDelta(text, 0),
        ReasoningDelta: ReasoningDelta(text, 0),
        ToolCallDelta: ToolCallDelta(0, text),
        ToolCall: ToolCall(0, "id", "name", text),
    }[of]
    before = getsizeof(text)
    encode(1, entry)
    answer = AnswerBuilder(1 << 20)
    answer.add([entry])
    answer.response()
    assert getsizeof(text) == before
