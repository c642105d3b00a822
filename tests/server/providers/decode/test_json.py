"""JSON with lone surrogates."""

import itertools
import json
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.events import (
    Citation,
    InvalidToolCall,
    Logprobs,
    Notice,
    NoticeKind,
    ReasoningDelta,
    TextDelta,
    TextInfo,
    TextPhase,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
)
from tokenwire_server.providers.decode.json import SurrogateJoiner, join_surrogates, loads, log_text

HIGH, LOW, EMOJI = "\ud83d", "\ude00", "\U0001f600"


class Shape(msgspec.Struct):
    a: str = ""


class RawShape(msgspec.Struct):
    a: msgspec.Raw = msgspec.Raw(b"")


SHAPE = msgspec.json.Decoder(Shape)
RAW_SHAPE = msgspec.json.Decoder(RawShape)

halves_and_more = st.text(st.sampled_from(["\ud83d", "\ude00", "\udbff", "a", "é", "\\", EMOJI]))


def whole(text):
    """Return a text with its surrogate pairs joined and others replaced, one code unit at a time."""
    joined, position = "", 0
    while position < len(text):
        pair = text[position : position + 2]
        if len(pair) == 2 and "\ud800" <= pair[0] <= "\udbff" and "\udc00" <= pair[1] <= "\udfff":
            joined += chr(0x10000 + ((ord(pair[0]) - 0xD800) << 10) + ord(pair[1]) - 0xDC00)
            position += 2
        else:
            joined += "\ufffd" if "\ud800" <= pair[0] <= "\udfff" else pair[0]
            position += 1
    return joined


@given(halves_and_more)
def test_lone_surrogates_are_decoded_unchanged(text):
    # Python joins the halves in one string, as JSON specifies.
    assert whole(loads(SHAPE, json.dumps({"a": text}).encode()).a) == whole(text)


@given(halves_and_more)
def test_lone_surrogates_in_raw_json_become_replacement_characters(text):
    raw = bytes(loads(RAW_SHAPE, json.dumps({"a": text}).encode()).a)

    assert json.loads(raw) == whole(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\xbd"}',
        b'{"a": "\x01"}',
        b'{"a": "\\ud8"}',
        b'{"a": "\\ud83d", "b": NaN}',
        b'{"a": "\\ud83d"} x',
        b'{"b": "\\ud83d", "a": 1}',
        b'{"a": 1}',
        b'{"b":' + b"[" * 100_000,
        b'{"b": "\\ud83d", "c":' + b"[" * 100_000,
        b'{"b": "\\ud83d", "c": ' + b"9" * 10_000 + b"x}",
        b'{"a": "\\ud83d\xff"}',
    ],
)
@pytest.mark.parametrize("keep_surrogates", [True, False])
def test_invalid_json_is_a_decode_error(data, keep_surrogates):
    with pytest.raises(msgspec.DecodeError):
        loads(SHAPE, data, keep_surrogates=keep_surrogates)


@given(halves_and_more)
def test_pairs_within_a_text_are_joined(text):
    assert join_surrogates(text) == whole(text)


@given(halves_and_more, st.lists(st.integers(0, 30), max_size=5))
def test_the_joined_text_does_not_depend_on_the_split(text, cuts):
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    joiner = SurrogateJoiner()
    deltas = []
    for start, end in itertools.pairwise(edges):
        if text[start:end]:
            deltas += joiner.join([TextDelta(text[start:end], 0)])
    deltas += joiner.flush()

    assert all(delta.text for delta in deltas)
    assert "".join(delta.text for delta in deltas) == whole(text)


def test_deltas_without_surrogates_are_returned_unchanged():
    deltas = [TextDelta("é", 0), ToolCallStarted(1, "a", "b"), ToolCallDelta(1, "{}")]

    assert SurrogateJoiner().join(deltas) is deltas


def test_halves_of_interleaved_calls_are_joined():
    joiner = SurrogateJoiner()
    deltas = [
        ToolCallDelta(0, f'"{HIGH}'),
        ToolCallDelta(1, f'"{HIGH}'),
        ToolCallDelta(0, f'{LOW}"'),
        ToolCallDelta(1, f'{LOW}"'),
        ToolCall(0, "a", "f", f'"{HIGH}{LOW}"'),
    ]

    assert joiner.join(deltas) == [
        ToolCallDelta(0, '"'),
        ToolCallDelta(1, '"'),
        ToolCallDelta(0, f'{EMOJI}"'),
        ToolCallDelta(1, f'{EMOJI}"'),
        ToolCall(0, "a", "f", f'"{EMOJI}"'),
    ]
    assert joiner.flush() == []


def test_halves_of_different_blocks_are_not_joined():
    joiner = SurrogateJoiner()

    assert joiner.join([ReasoningDelta(f"a{HIGH}", 0), TextDelta(f"{LOW}b", 1)]) == [
        ReasoningDelta("a", 0),
        ReasoningDelta("\ufffd", 0),
        TextDelta("\ufffdb", 1),
    ]


@pytest.mark.parametrize(
    "between",
    [
        TextInfo(0, TextPhase.FINAL_ANSWER, b"state"),
        Logprobs(0, (TokenLogprob("a", -1.0),)),
        Notice(NoticeKind.MODEL_CHANGED, "other"),
        Citation(0, title="a"),
    ],
)
def test_halves_are_joined_across_what_is_not_text(between):
    joiner = SurrogateJoiner()

    assert joiner.join([TextDelta(HIGH, 0), between, TextDelta(LOW, 0)]) == [
        between,
        TextDelta(EMOJI, 0),
    ]


def test_a_half_is_replaced_before_the_signature_or_call_that_ends_its_block():
    joiner = SurrogateJoiner()

    assert joiner.join([ReasoningDelta(HIGH, 0), ReasoningDelta("", 0, "sig")]) == [
        ReasoningDelta("\ufffd", 0, "sig")
    ]
    assert joiner.join([ToolCallDelta(1, HIGH), ToolCall(1, "a", "f", "{}")]) == [
        ToolCallDelta(1, "\ufffd"),
        ToolCall(1, "a", "f", "{}"),
    ]
    assert joiner.join([ReasoningDelta(HIGH, 0), ReasoningDelta("", 0, "", b"state")]) == [
        ReasoningDelta("\ufffd", 0, "", b"state")
    ]
    assert joiner.join([ToolCallDelta(1, HIGH), InvalidToolCall(1, "a", "f", HIGH, "cut")]) == [
        ToolCallDelta(1, "\ufffd"),
        InvalidToolCall(1, "a", "f", "\ufffd", "cut"),
    ]


@pytest.mark.parametrize(
    "payload", [b'{"content": "canary', b' ["canary", "canary"]', b'"canary canary cana']
)
def test_json_that_cannot_be_read_is_not_logged(payload):
    assert log_text(payload, ValueError("cut")) == f"{len(payload)} bytes: cut"


def test_the_text_of_a_proxy_is_logged():
    assert log_text(b"upstream connect error", ValueError("cut")) == "upstream connect error"


class ScanningJoiner(SurrogateJoiner):
    """Scans all waiting halves for each delta."""

    __slots__ = ()

    def _end_others(self, delta, joined):
        if isinstance(delta, Logprobs | Notice):
            return
        for index, half in list(self.halves.items()):
            is_same_block = index == delta.index
            if (
                isinstance(delta, ToolCall | InvalidToolCall)
                if is_same_block
                else not isinstance(half, ToolCallDelta)
            ):
                self._take(index)
                joined.append(type(half)(*self._replaced(half)))

    def _replaced(self, half):
        is_call = isinstance(half, ToolCallDelta)
        return (half.index, "\ufffd") if is_call else ("\ufffd", half.index)


pieces = st.sampled_from(["a", HIGH, LOW, f"a{HIGH}", f"{LOW}a", EMOJI])
indexes = st.integers(0, 3)
tokens = st.builds(
    TokenLogprob,
    pieces,
    st.just(-1.0),
    st.just(b"token"),
    st.tuples(st.builds(TokenLogprob, pieces, st.just(-2.0))),
)
any_delta = st.one_of(
    st.builds(TextDelta, pieces, indexes),
    st.builds(TextInfo, indexes, st.sampled_from(TextPhase), st.just(b"state")),
    st.builds(
        ReasoningDelta, pieces, indexes, st.sampled_from(["", "sig"]), st.sampled_from([b"", b"s"])
    ),
    st.builds(ToolCallDelta, indexes, pieces),
    st.builds(ToolCallStarted, indexes, pieces, pieces),
    st.builds(ToolCall, indexes, pieces, pieces, pieces, st.just(b"state")),
    st.builds(InvalidToolCall, indexes, pieces, pieces, pieces, pieces),
    st.builds(Citation, indexes, cited_text=pieces, url=pieces, title=pieces),
    st.builds(Logprobs, indexes, st.tuples(tokens)),
    st.builds(Notice, st.just(NoticeKind.MODEL_CHANGED), pieces),
)


@settings(deadline=None)
@given(st.lists(st.lists(any_delta, max_size=3), max_size=12))
def test_the_halves_that_a_delta_ends_are_those_that_a_scan_finds(arrivals):
    joiner, scanning = SurrogateJoiner(), ScanningJoiner()
    for deltas in arrivals:
        assert joiner.join(deltas) == scanning.join(deltas)
    assert joiner.flush() == scanning.flush()


def cleaned(value):
    """Return a value with `whole` applied to each of its texts."""
    if isinstance(value, msgspec.Struct):
        return type(value)(*map(cleaned, msgspec.structs.astuple(value)))
    if isinstance(value, tuple):
        return tuple(map(cleaned, value))
    return whole(value) if isinstance(value, str) else value


@given(st.lists(any_delta, max_size=12))
def test_no_delta_has_surrogates_and_those_that_are_no_pieces_of_text_are_otherwise_unchanged(
    deltas,
):
    joiner = SurrogateJoiner()
    joined = [each for delta in deltas for each in joiner.join([delta])] + joiner.flush()

    pieces = (TextDelta, ReasoningDelta, ToolCallDelta)
    assert all(delta == cleaned(delta) for delta in joined)
    assert [delta for delta in joined if not isinstance(delta, pieces)] == [
        cleaned(delta) for delta in deltas if not isinstance(delta, pieces)
    ]


def test_the_work_for_waiting_halves_is_linear():
    def took_s(count):
        joiner = SurrogateJoiner()
        deltas = [ToolCallDelta(index, f"a{HIGH}") for index in range(count)]
        began = time.process_time()
        for _ in range(2):
            for delta in deltas:
                joiner.join([delta])
        return time.process_time() - began

    assert took_s(4000) <= 32 * max(
        took_s(500), took_s(500)
    )  # 8 times if linear; 64 times if each delta scanned all
