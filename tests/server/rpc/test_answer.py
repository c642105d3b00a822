import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenwire
from event_strategies import answers
from tokenwire.v1.event_pb2 import TokenEvent
from tokenwire_server.events import (
    Citation,
    Finished,
    FinishReason,
    Logprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    TextInfo,
    TextPhase,
    Timings,
    TokenLogprob,
    Usage,
)
from tokenwire_server.rpc.answer import ITEM_BYTES, UNCOUNTED_ITEMS, AnswerBuilder
from tokenwire_server.rpc.codec import encode
from tokenwire_server.streams.merge import merge

FINISHED = Finished(FinishReason.STOP, "m", "p", Usage(1, 2), Timings(duration_s=4.5))


def test_a_whole_answer_keeps_the_signature_of_each_reasoning_block():
    builder = AnswerBuilder()
    builder.add([Started("id", "m", "p", 0.0), ReasoningDelta("h", 0), ReasoningDelta("m", 0)])
    builder.add([ReasoningDelta("", 0, "proof"), TextDelta("yes", 1), ReasoningDelta("", 2, "2nd")])
    builder.add([FINISHED])
    first, text, second = builder.response().message.parts
    assert (first.reasoning.text, first.reasoning.signature) == ("hm", "proof")
    assert text.text == "yes"
    assert (second.reasoning.text, second.reasoning.signature) == ("", "2nd")


@given(answers(), st.data())
def test_an_answer_is_the_same_for_every_caller_however_its_events_are_merged(events, data):
    builder, client, merged = AnswerBuilder(), tokenwire.AnswerBuilder(), AnswerBuilder()
    builder.add(events)
    position = 0
    while position < len(events):
        count = data.draw(st.integers(1, len(events) - position))
        taken = merge(events[position : position + count], position)
        merged.add(event for _, event in taken)
        for sequence, event in taken:
            client.add(TokenEvent.FromString(encode(sequence, event)))
        position += count

    assert builder.response() == merged.response() == client.build().response
    assert client.last_sequence == len(events)


def test_the_content_of_an_answer_that_is_too_large_is_not_kept():
    builder = AnswerBuilder(1000)
    for _ in range(11):
        builder.add([TextDelta("x" * 50, 0), ReasoningDelta("x" * 50, 1)])
        builder.add([Logprobs(0, (TokenLogprob("x" * 50, -1.0),))])
    assert builder.is_too_large
    assert builder.content_bytes > 11 * 150
    assert builder.response().ByteSize() < 10


@pytest.mark.parametrize(
    "small",
    [
        lambda n: TextDelta("x", n),
        lambda n: ReasoningDelta("x", n),
        lambda n: TextInfo(n, TextPhase.COMMENTARY),
        lambda n: Citation(0, document_index=n),
    ],
)
def test_an_answer_of_very_many_small_items_is_too_large(small):
    builder = AnswerBuilder(10 * ITEM_BYTES)
    builder.add(small(n) for n in range(UNCOUNTED_ITEMS))
    assert builder.content_bytes < 10 * ITEM_BYTES
    builder.add(small(UNCOUNTED_ITEMS + n) for n in range(11))
    assert builder.is_too_large
