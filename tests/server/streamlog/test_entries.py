"""The stored form of entries: what is written, and what other versions may read."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_strategies import answers
from tokenwire_server.errors import Failure
from tokenwire_server.events import (
    Citation,
    CitationKind,
    Event,
    Finished,
    FinishReason,
    InvalidToolCall,
    JsonResult,
    JsonValue,
    JsonViolation,
    Logprobs,
    Notice,
    NoticeKind,
    ReasoningDelta,
    Refusal,
    Started,
    TextDelta,
    TextInfo,
    TextPhase,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from tokenwire_server.streamlog.entries import (
    Batch,
    StreamFacts,
    UnknownFormat,
    decode_batch,
    decode_facts,
    encode_batch,
    encode_facts,
)

FORMAT_1 = Path(__file__).parent / "format_1.hex"
FAILURE = Failure("UPSTREAM_BROKEN", "it broke", 7, Usage(1, 2), {"provider": "p"}, 1.5)
USAGE = Usage(1, 2, 3, 4, 5, 6, (("web_search", 1),), "flex", (("m", Usage(1, 2)),), 7, True)
EACH_KIND = [
    Started("id", "m", "p", 1.5, "r", 5, 6, True),
    TextDelta("hi", 0),
    ReasoningDelta("so", 1, "proof", b"state"),
    TextInfo(0, TextPhase.FINAL_ANSWER, b"state"),
    ToolCallStarted(2, "c", "f"),
    ToolCallDelta(2, "{}"),
    ToolCall(2, "c", "f", "{}", b"state"),
    InvalidToolCall(3, "c", "f", "{", "is not JSON"),
    Citation(0, CitationKind.URL, 0, 1, "text", "https://a.example", "title", 2),
    Logprobs(0, (TokenLogprob("h", -1.0, b"h", (TokenLogprob("g", -2.0),)),)),
    Notice(NoticeKind.FALLBACK, "m", "p", 2, 0.5),
    JsonValue(0, "/a", "1", True),
    JsonResult(False, (JsonViolation("/a", "is not a string"),)),
    Finished(
        FinishReason.STOP, "m", "p", USAGE, Timings(1, 0.1, 0.2, 0.3, 4), "r", "end", Refusal("a")
    ),
]


@given(answers(), st.integers(1, 2**40), st.sampled_from([None, FAILURE]))
def test_a_batch_is_read_as_it_was_written(entries, first_sequence, failure):
    batch = decode_batch(encode_batch(first_sequence, entries, failure))
    assert batch == Batch(first_sequence, entries, failure)
    assert batch.last_sequence == first_sequence + len(entries) - 1


def test_the_stored_form_of_each_kind_of_entry_stays_as_it_is():
    assert {type(entry) for entry in EACH_KIND} == set(get_args(Event))
    stored = bytes.fromhex(FORMAT_1.read_text())
    assert decode_batch(stored) == Batch(3, EACH_KIND, FAILURE, 2.5)
    assert encode_batch(3, EACH_KIND, FAILURE, 2.5) == stored


def test_the_stored_form_of_facts_stays_as_it_is():
    facts = StreamFacts("t", 1.5, 30.0, 5.0, "r", b"h")
    stored = b"\x01\x96\xa1t\xcb?\xf8" + bytes(6) + b"\xcb@>" + bytes(6)
    stored += b"\xcb@\x14" + bytes(6) + b"\xa1r\xc4\x01h"
    assert encode_facts(facts) == stored
    assert decode_facts(stored) == facts


def test_a_field_that_a_later_version_adds_is_ignored():
    later = [5, [["text", "hi", 0, "new"]], None, None, "new"]
    assert decode_batch(b"\x01" + msgspec.msgpack.encode(later)) == Batch(5, [TextDelta("hi", 0)])


def test_a_field_that_an_earlier_version_lacks_has_its_default():
    usage, timings = {"input_tokens": 1, "output_tokens": 2}, {"duration_s": 1.0}
    earlier = [5, [["finished", 1, "m", "p", usage, timings]]]
    finished = Finished(FinishReason.STOP, "m", "p", Usage(1, 2), Timings(1.0))
    assert decode_batch(b"\x01" + msgspec.msgpack.encode(earlier)) == Batch(5, [finished])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "found no data"),
        (b"\x02", "found format 2"),
        (b"\x01", "damaged"),
        (b"\x01\x93\x05", "damaged"),
        (
            b"\x01" + msgspec.msgpack.encode([5, [["new_kind", 1]]]),
            "damaged: Invalid value 'new_kind'",
        ),
    ],
)
def test_data_of_another_version_is_refused_by_name(data, what):
    with pytest.raises(UnknownFormat, match=what):
        decode_batch(data)
