"""Every decoder, compared with transcripts of its provider's format and with the provider's SDK.

The files in `transcripts/` were written for these tests, one for each behaviour. Recorded streams of
providers are read from the folder in $TOKENWIRE_TRANSCRIPTS, if it is set.
"""

import itertools
import random
import re
import tracemalloc

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transcripts_support import (
    ORACLES,
    answer,
    decode,
    new_decoder,
    own_transcripts,
    recorded_transcripts,
)

from examples import scaled

OWN = own_transcripts()
COMPLETE = [t for t in OWN if t.is_expected and "complete" in t.expected["end"]]
RECORDED = recorded_transcripts()
DIALECTS = list(ORACLES)

MAX_BYTES_FOR_EVERY_CUT = 8192
RANDOM_CUTS_COUNT = 200
MAX_LINE_CUTS_COUNT = 30
MAX_EVENT_BYTES = 4 * 2**20

END_MARKERS = {
    "openai-chat": (b"[DONE]",),
    "openai-responses": (b"response.completed", b"response.incomplete"),
    "anthropic": (b"message_stop",),
}

fuzz = settings(
    max_examples=scaled(60),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
each_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def each(transcripts):
    if not transcripts:
        why = "TOKENWIRE_TRANSCRIPTS names no folder with streams of real providers"
        transcripts = [pytest.param(None, id="none", marks=pytest.mark.skip(reason=why))]
        return pytest.mark.parametrize("transcript", transcripts)
    return pytest.mark.parametrize("transcript", transcripts, ids=lambda t: t.name)


def split(body, cuts):
    edges = [0, *sorted(cuts), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(edges)]


def line_positions(body, end):
    """Return the last positions before `end`, some of those around line ends, and some random ones."""
    last = range(max(0, end - 8), end)
    at_lines = {
        position
        for line_end in re.finditer(rb"[\r\n]+", body)
        for position in range(line_end.start(), line_end.end() + 1)
        if position < end
    }
    chance = random.Random(len(body))
    chosen = chance.sample(sorted(at_lines), min(len(at_lines), MAX_LINE_CUTS_COUNT))
    return [*last, *chosen, *(chance.randrange(end + 1) for _ in range(10))]


def every_position(body, end):
    """Return all positions before `end`; of a long body, some."""
    if len(body) <= MAX_BYTES_FOR_EVERY_CUT:
        return range(end)
    return random.Random(len(body)).sample(range(end), RANDOM_CUTS_COUNT)


@each(OWN)
def test_a_transcript_is_decoded_to_exactly_its_expected_events(transcript):
    expected = transcript.expected
    expected.pop("quirks", None)
    expected.pop("sdk_differs", None)
    assert decode(transcript.decoder(), transcript.body) == expected


each_position = pytest.mark.parametrize(
    "positions",
    [
        pytest.param(line_positions, id="lines"),
        pytest.param(every_position, id="every byte", marks=pytest.mark.soak),
    ],
)


@each_position
@each([*OWN, *RECORDED])
def test_the_result_does_not_depend_on_where_the_bytes_are_split(transcript, positions):
    body = transcript.body
    whole = decode(transcript.decoder(), body)

    assert decode(transcript.decoder(), *split(body, range(1, len(body)))) == whole
    for cut in positions(body, len(body)):
        assert decode(transcript.decoder(), *split(body, [cut])) == whole, cut


@each(OWN)
@settings(fuzz, max_examples=scaled(5))
@given(data=st.data())
def test_the_result_does_not_depend_on_the_number_of_pieces(transcript, data):
    body = transcript.body
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=40))

    assert decode(transcript.decoder(), *split(body, cuts)) == decode(transcript.decoder(), body)


@each(COMPLETE)
def test_the_providers_sdk_reads_the_same_from_a_complete_transcript(transcript):
    if why := transcript.expected.get("sdk_differs"):
        pytest.skip(f"the SDK differs, as intended: {why}")
    assert answer(decode(transcript.decoder(), transcript.body)) == transcript.oracle()


@each(RECORDED)
def test_the_providers_sdk_reads_the_same_from_a_recorded_stream(transcript):
    outcome = decode(transcript.decoder(), transcript.body)

    assert "complete" in outcome["end"]
    assert answer(outcome) == transcript.oracle()


@each_position
@each([*COMPLETE, *RECORDED])
def test_an_answer_cut_off_before_its_end_marker_is_never_complete(transcript, positions):
    body = transcript.body
    marker = max(body.rfind(marker) for marker in END_MARKERS[transcript.dialect])
    if marker < 0:
        pytest.skip("ends without a marker, as its quirks allow")
    whole = decode(transcript.decoder(), body)["events"]
    for length in positions(body, marker):
        cut = decode(transcript.decoder(), body[:length])
        assert "broken" in cut["end"], length
        assert text_of(whole).startswith(text_of(cut["events"]).rstrip("\ufffd")), length


def text_of(events):
    return "".join(event["text"] for event in events if event["type"] == "text")


@each_dialect
@fuzz
@given(body=st.binary(max_size=2000))
def test_no_bytes_make_a_decoder_raise(dialect, body):
    end = decode(new_decoder(dialect), body)["end"]

    assert "broken" in end or any(marker in body for marker in END_MARKERS[dialect])


@each_dialect
@fuzz
@given(data=st.data())
def test_no_mutation_of_a_transcript_makes_a_decoder_raise(dialect, data):
    transcripts = [t for t in OWN if t.dialect == dialect]
    assume(transcripts)
    transcript = data.draw(st.sampled_from(transcripts))
    body = bytearray(transcript.body)
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(body)))
        match data.draw(st.sampled_from(["replace", "insert", "delete", "repeat"])):
            case "replace":
                new = data.draw(st.binary(min_size=1, max_size=4))
                body[position : position + len(new)] = new
            case "insert":
                body[position:position] = data.draw(st.sampled_from(INSERTIONS))
            case "delete":
                del body[position : position + data.draw(st.integers(1, 60))]
            case "repeat":
                body[position:position] = body[position : position + 400]
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=5))

    outcome = decode(transcript.decoder(), *split(bytes(body), cuts))

    assert outcome == decode(transcript.decoder(), bytes(body))
    if "done_marker" in transcript.expected.get("quirks", {}):
        return
    assert "broken" in outcome["end"] or any(marker in body for marker in END_MARKERS[dialect])


INSERTIONS = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xff",
    b"\xf0\x9f",
    b":",
    b"data: ",
    b"data:\n\n",
    b"event: x\n",
    b'"',
    b"}",
    b"null",
    b"-1",
    b"1e400",
    b"\\ud83d",
    b"\\ude00",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
]


@each_dialect
@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"a" * 65536, id="a line without an end"),
        pytest.param(b'data: {"a": "' + b"b" * 65520, id="lines of one event without an end"),
        pytest.param(b"data:" * 13107 + b"\n", id="an event of many lines"),
    ],
)
def test_an_endless_event_ends_the_answer_at_its_memory_limit(dialect, piece):
    decoder = new_decoder(dialect)
    fed_bytes = 0
    tracemalloc.start()
    try:
        while decoder.end is None and fed_bytes < 4 * MAX_EVENT_BYTES:
            assert decoder.feed(piece) == []
            fed_bytes += len(piece)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert decoder.end.reason == "UPSTREAM_BROKEN"
    assert fed_bytes <= MAX_EVENT_BYTES + 2 * len(piece)
    assert peak_bytes <= 3 * MAX_EVENT_BYTES
