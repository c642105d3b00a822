"""Windows of an answer, and what passes of it, without any clock or task."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.config import ModerationConfig
from tokenwire_server.content import moderation_stage
from tokenwire_server.content.filter_stage import BLOCKED
from tokenwire_server.content.moderation_stage import MAX_IN_FLIGHT, ModerationStage
from tokenwire_server.errors import AnswerUnchecked
from tokenwire_server.events import (
    Citation,
    Logprobs,
    Notice,
    NoticeKind,
    ReasoningDelta,
    TextDelta,
    TextInfo,
    TokenLogprob,
    ToolCall,
    ToolCallStarted,
)
from tokenwire_server.moderation.service import Verdict

CLEAR, FLAGGED, FAILED = Verdict(flagged=False), Verdict(flagged=True), None
BAD = "bad"


def stage(output="hold", **fields):
    fields = {"window_chars": 20, "overlap_chars": 5, **fields}
    return ModerationStage("m", ModerationConfig(service="openai", output=output, **fields))


def text_of(entries, kind=TextDelta):
    return "".join(entry.text for entry in entries if isinstance(entry, kind))


def due(made):
    """Take all windows that are due now."""
    windows = []
    while (window := made.take_due()) is not None:
        windows.append(window)
    return windows


def verdict_of(window):
    return FLAGGED if BAD in window.text else CLEAR


def run(made, entries, verdict=verdict_of, order=None):
    """Feed entries, and decide all windows. Return the windows and what passed."""
    windows, passed, in_flight = [], [], []

    def take():
        found = due(made)
        windows.extend(found)
        in_flight.extend(found)

    def decide(position):
        window = in_flight.pop(position)
        passed.extend(made.decide(window.number, verdict(window)))

    for entry in entries:
        passed.extend(made.feed([entry]))
        take()
        while in_flight and order is not None and order.random() < 0.5:
            decide(order.randrange(len(in_flight)))
            take()
    made.close_window()
    take()
    while in_flight:
        decide(0 if order is None else order.randrange(len(in_flight)))
        take()
    assert made.is_settled
    passed.extend(made.finish(None))
    return windows, passed


def split(text, cuts, index=0):
    borders = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = (text[a:b] for a, b in itertools.pairwise(borders))
    return [TextDelta(piece, index) for piece in pieces if piece]


TEXTS = st.lists(st.sampled_from(["a", "b", "d ", "abcdefgh" * 4, BAD]), max_size=60).map("".join)
CUTS = st.lists(st.integers(0, 2000), max_size=40)


def reference(text):
    """Return the windows of a text, and what is shown of it."""
    starts = range(0, len(text), 20)
    windows = [text[max(0, start - 5) : start + 20] for start in starts]
    flagged = (start for start, window in zip(starts, windows, strict=True) if BAD in window)
    return windows, text[: next(flagged, len(text))]


@given(TEXTS, CUTS, st.integers(0, 2**32))
def test_no_split_and_no_order_of_verdicts_changes_the_windows_or_what_is_shown(text, cuts, seed):
    expected, shown = reference(text)
    windows, passed = run(stage(), split(text, cuts), order=random.Random(seed))
    texts = [window.text for window in windows]
    assert texts == expected[: len(texts)]
    assert text_of(passed) == shown
    if shown == text:
        assert texts == expected


@given(TEXTS, CUTS)
def test_with_follow_all_text_passes_at_once(text, cuts):
    made = stage("follow")
    entries = split(text, cuts)
    for entry in entries:
        assert made.feed([entry]) == [entry]
        for window in due(made):
            assert made.decide(window.number, CLEAR) == []


def test_windows_have_new_text_and_the_end_of_the_text_before():
    windows, _ = run(stage(), [TextDelta("x" * 18 + "abcdefgh" + "y" * 30, 0)])
    assert [window.text for window in windows] == [
        "x" * 18 + "ab",
        "xxxab" + "cdefgh" + "y" * 14,
        "y" * 5 + "y" * 16,
    ]


def test_held_text_passes_when_its_window_and_all_before_it_are_clear():
    made = stage()
    assert made.feed([TextDelta("a" * 20 + "b" * 20 + "c", 0)]) == []
    first, second = due(made)
    assert made.decide(second.number, CLEAR) == []
    assert made.decide(first.number, CLEAR) == [TextDelta("a" * 20, 0), TextDelta("b" * 20, 0)]
    assert made.open_window == 2
    made.close_window()
    (third,) = due(made)
    assert made.decide(third.number, CLEAR) == [TextDelta("c", 0)]
    assert made.is_settled


def test_held_text_is_shown_up_to_the_flagged_window_whatever_is_known_first():
    made = stage()
    made.feed([TextDelta("a" * 20 + "b" * 20 + "c" * 20, 0)])
    first, second, third = due(made)
    assert made.decide(third.number, FAILED) == []
    assert made.decide(second.number, FLAGGED) == []
    assert made.end is None
    assert made.decide(first.number, CLEAR) == [TextDelta("a" * 20, 0)]
    assert made.end == BLOCKED
    assert made.failure is None
    assert made.feed([TextDelta("d", 0)]) == []
    assert made.is_settled


def test_with_follow_a_flagged_window_ends_the_answer_at_once():
    made = stage("follow")
    made.feed([TextDelta("a" * 40, 0)])
    _, second = due(made)
    assert made.decide(second.number, FLAGGED) == []
    assert made.end == BLOCKED
    assert made.feed([TextDelta("d", 0)]) == []


@pytest.mark.parametrize("output", ["hold", "follow"])
def test_a_check_that_fails_lets_its_text_pass_or_fails_the_answer(output):
    made = stage(output, on_failure="open")
    made.feed([TextDelta("a" * 20, 0)])
    passed = made.decide(due(made)[0].number, FAILED)
    assert passed == ([TextDelta("a" * 20, 0)] if output == "hold" else [])
    assert (made.unchecked_count, made.failure, made.end) == (1, None, None)
    made = stage(output)
    made.feed([TextDelta("a" * 20, 0)])
    assert made.decide(due(made)[0].number, FAILED) == []
    assert isinstance(made.failure, AnswerUnchecked)
    assert made.end is None


def test_what_follows_held_text_waits_behind_it_and_text_before_it_does_not():
    made = stage()
    info, notice = TextInfo(0), Notice(NoticeKind.MODEL_CHANGED, model="m")
    citation, started = Citation(0, start=0, end=2), ToolCallStarted(1, "id", "f")
    call = ToolCall(1, "id", "f", "{}")
    assert made.feed([info, TextDelta("abc", 0), citation, notice]) == [info]
    assert made.open_window == 0
    assert made.feed([started, call]) == []
    assert made.open_window is None, "the text has ended"
    (window,) = due(made)
    assert window.text == "abc"
    released = made.decide(window.number, CLEAR)
    assert released == [TextDelta("abc", 0), citation, notice, started, call]
    assert made.feed([started]) == [started]


def test_nothing_after_a_flagged_text_passes():
    made = stage()
    made.feed([TextDelta("abc", 0), ToolCallStarted(1, "id", "f"), ToolCall(1, "id", "f", "{}")])
    assert made.decide(due(made)[0].number, FLAGGED) == []
    assert made.finish(BLOCKED) == []


def test_reasoning_is_a_text_of_its_own_and_keeps_its_signature():
    made = stage(applies_to=["text", "reasoning"])
    signed = ReasoningDelta("b" * 25, 0, "signature")
    windows, passed = run(
        made, [ReasoningDelta("a", 0), signed, TextDelta("c", 1), TextDelta("d", 2)]
    )
    assert [window.text for window in windows] == ["a" + "b" * 19, "b" * 5 + "b" * 6, "cd"]
    assert passed == [
        ReasoningDelta("a" + "b" * 19, 0),
        ReasoningDelta("b" * 6, 0, "signature"),
        TextDelta("c", 1),
        TextDelta("d", 2),
    ]


def test_kinds_that_are_not_checked_do_not_wait_without_held_text():
    made = stage()
    thought = ReasoningDelta("t" * 50, 0)
    assert made.feed([thought]) == [thought]
    assert due(made) == []


def test_log_probabilities_of_held_text_are_dropped():
    logprobs = Logprobs(0, (TokenLogprob("bad", -0.1),))
    assert stage().feed([logprobs]) == []
    assert stage("follow").feed([logprobs]) == [logprobs]
    assert stage(applies_to=["reasoning"]).feed([logprobs]) == [logprobs]


def test_checks_at_the_same_time_and_undecided_text_are_bounded():
    made = stage()
    made.feed([TextDelta("a" * 20 * (MAX_IN_FLIGHT + 1), 0)])
    windows = due(made)
    assert len(windows) == MAX_IN_FLIGHT
    made.decide(windows[2].number, CLEAR)
    assert len(due(made)) == 1
    assert not made.is_full
    made.feed([TextDelta("a" * moderation_stage.MIN_MAX_WAITING_CHARS, 0)])
    assert made.is_full
    made = stage(window_chars=2000)
    for number in range(moderation_stage.MAX_WAITING_WINDOWS):
        assert not made.is_full
        made.feed([TextDelta("a", number), ToolCallStarted(number, "id", "f")])
    assert made.is_full
    for _ in range(3):
        windows = due(made)
        for window in windows:
            made.decide(window.number, CLEAR)
    assert not made.is_full


def test_entries_that_wait_count_and_are_counted_off():
    made = stage()
    made.feed([TextDelta("a", 0), ToolCall(1, "id", "f", "x" * 10_000)])
    assert made.is_full
    (window,) = due(made)
    made.decide(window.number, CLEAR)
    assert not made.is_full
    assert made._waiting_chars == made._undecided_chars == 0
    run(
        made, [ReasoningDelta("a", 0, "s"), TextDelta("b" * 100, 1), Citation(1), TextDelta("c", 2)]
    )
    assert made._waiting_chars == made._undecided_chars == 0


@pytest.mark.parametrize("output", ["hold", "follow"])
def test_nothing_passes_after_the_end(output):
    made = stage(output)
    made.feed([TextDelta("a" * 20, 0)])
    (window,) = due(made)
    assert made.finish(None) == []
    assert made.decide(window.number, FLAGGED) == []
    assert made.end is None


def test_text_that_is_checked_and_waits_for_the_text_before_it_is_bounded_too():
    made = stage(window_chars=1000)
    made.feed([TextDelta("x" * 1000, 0)])
    first, *_ = due(made)
    fed_chars = 1000
    while not made.is_full:
        made.feed([TextDelta("x" * 1000, 0)])
        fed_chars += 1000
        for window in due(made):
            assert made.decide(window.number, CLEAR) == []
        assert fed_chars <= moderation_stage.MIN_MAX_WAITING_CHARS
    assert text_of(made.decide(first.number, CLEAR)) == "x" * fed_chars
    assert not made.is_full
    assert made._waiting_chars == made._undecided_chars == 0


def test_the_windows_that_are_checked_and_wait_are_bounded_too():
    made = stage()
    made.feed([TextDelta("x" * 20, 0)])
    first, *_ = due(made)
    for _ in range(moderation_stage.MAX_WAITING_WINDOWS - 1):
        assert not made.is_full
        made.feed([TextDelta("x" * 20, 0)])
        for window in due(made):
            made.decide(window.number, CLEAR)
    assert made.is_full
    made.decide(first.number, CLEAR)
    assert not made.is_full
