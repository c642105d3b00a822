from itertools import pairwise

import pytest
from hypothesis import given
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
from tokenwire_server.streams.merge import MAX_MERGED_CHARS, merge

index = st.integers(0, 2)
piece = st.text(max_size=8)
event = st.one_of(
    st.builds(TextDelta, piece, index),
    st.builds(
        ReasoningDelta,
        piece,
        index,
        st.sampled_from(["", "", "", "proof"]),
        st.sampled_from([b"", b"", b"", b"p\0state"]),
    ),
    st.builds(TextInfo, index, st.sampled_from(TextPhase), st.sampled_from([b"", b"p\0state"])),
    st.builds(Citation, index),
    st.builds(Logprobs, index, st.just((TokenLogprob("a", -0.5),))),
    st.builds(Notice, st.just(NoticeKind.MODEL_CHANGED), st.just("other")),
    st.builds(InvalidToolCall, index, st.just("id"), st.just("name"), piece, st.just("cut")),
    st.builds(ToolCallStarted, index, st.just("id"), st.just("name")),
    st.builds(ToolCallDelta, index, piece),
    st.builds(ToolCall, index, st.just("id"), st.just("name"), st.just("{}")),
)


def spelled_out(events):
    """What the events say, character by character: the same however they were merged."""
    said = []
    for e in events:
        match e:
            case TextDelta():
                said += [("text", e.index, c) for c in e.text]
            case ReasoningDelta():
                said += [("reasoning", e.index, c) for c in e.text]
                end = ("end", e.index, e.signature, e.provider_state)
                said += [end] if e.signature or e.provider_state else []
            case ToolCallDelta():
                said += [("arguments", e.index, c) for c in e.arguments_json]
            case _:
                said.append(e)
    return said


@given(st.lists(event, max_size=40), st.integers(0, 1000))
def test_merging_never_changes_what_is_said_nor_its_order(events, after):
    assert spelled_out(e for _, e in merge(events, after)) == spelled_out(events)


@given(st.lists(event, max_size=40), st.integers(0, 1000))
def test_each_event_bears_the_sequence_of_the_last_entry_in_it(events, after):
    merged = merge(events, after)
    sequences = [sequence for sequence, _ in merged]
    assert sequences == sorted(set(sequences))
    assert (sequences[-1] if merged else after) == after + len(events)
    for sequence, _ in merged:  # any of them is a valid cursor: what follows it is what is left
        rest = events[sequence - after :]
        assert spelled_out(e for s, e in merged if s > sequence) == spelled_out(rest)


@given(st.lists(event, max_size=40))
def test_neighbours_of_one_kind_and_block_are_always_joined(events):
    joinable = (TextDelta, ReasoningDelta, ToolCallDelta)
    merged = [e for _, e in merge(events, 0)]
    for before, after in pairwise(merged):
        if isinstance(before, joinable) and type(before) is type(after):
            ends_block = isinstance(before, ReasoningDelta) and (
                before.signature or before.provider_state
            )
            assert before.index != after.index or ends_block


def test_a_joined_event_is_bounded_and_so_is_what_one_call_joins():
    events = [TextDelta("x" * 1000, 0) for _ in range(100)]
    merged, calls, sequence = [], 0, 0
    while sequence < len(events):
        joined = merge(events[sequence:], sequence)
        assert sum(len(e.text) for _, e in joined) <= MAX_MERGED_CHARS
        merged += (e for _, e in joined)
        sequence = joined[-1][0]
        calls += 1
    assert max(len(e.text) for e in merged) <= MAX_MERGED_CHARS
    assert len(merged) == -(-100 // (MAX_MERGED_CHARS // 1000))
    assert calls > 1


def test_a_delta_over_the_bound_passes_whole():
    big = TextDelta("x" * (MAX_MERGED_CHARS + 1), 0)
    events = [TextDelta("a", 0), big, TextDelta("b", 0)]
    merged = []
    while len(merged) < len(events):
        merged += merge(events[len(merged) :], len(merged))
    assert merged == [(n, event) for n, event in enumerate(events, 1)]


@pytest.mark.parametrize("end", [("proof of a", b""), ("", b"state of a")])
def test_a_signature_or_state_ends_a_merge(end):
    events = [ReasoningDelta("a", 0), ReasoningDelta("", 0, *end), ReasoningDelta("b", 0)]
    assert merge(events, 0) == [(2, ReasoningDelta("a", 0, *end)), (3, ReasoningDelta("b", 0))]


def test_ten_thousand_tokens_become_a_handful_of_events():
    events = [TextDelta("token ", 0) for _ in range(10_000)]
    assert len(merge(events, 0)) <= 4


def test_a_joined_event_may_reach_its_bound():
    events = [TextDelta("x" * (MAX_MERGED_CHARS // 4), 0) for _ in range(4)]
    assert merge(events, 0) == [(4, TextDelta("x" * MAX_MERGED_CHARS, 0))]
