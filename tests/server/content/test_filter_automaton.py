"""Pieces that the automaton decides without a search: the result is the same, and their number is bounded."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenwire_server.content.filters import Rule, automaton, compile_rules
from tokenwire_server.content.filters.automaton import (
    MAX_CHARS,
    MAX_HELD_CHARS,
    MAX_OUTCOMES,
    UNKNOWN,
    Automaton,
)
from tokenwire_server.content.filters.folding import MAX_IGNORED, Folding
from tokenwire_server.content.filters.matcher import Matcher
from tokenwire_server.content.filters.program import Program
from tokenwire_server.content.filters.syntax import parse

# What most of them match depends on the character before it or after it.
PATTERNS = (
    r"\bab",
    r"\Bab",
    r"(?m:^)ab",
    r"\Aab",
    r"ab\b",
    r"ab\B",
    r"ab(?m:$)",
    r"ab\z",
    r"a[^-]{2}b",
    r"(?:ab){2,3}-",
    r"(?:a|ab)+\n",
    r"aab|abb|\bb_",
    "ea|Жa",
    "a_",
)
PIECES = st.lists(
    st.sampled_from(
        ["a", "b", "ab", "aaa", "_", "-", "\n", "b-", "-a", "é", "Ж", "\u200b", "\ufb01"]
    ),
    max_size=10,
)


def compiled(pattern):
    return compile_rules([Rule(name="found", action="redact", patterns=(pattern,))])


def without_automaton(pattern):
    filters = compiled(pattern)
    filters.automaton = None
    return filters


def automaton_of(pattern):
    folding = Folding()
    return Automaton(Program([parse(pattern, folding)]), folding, max_match_chars=256)


PAIRS = [(compiled(pattern), without_automaton(pattern)) for pattern in PATTERNS]


def filtered(filters, pieces):
    filter_ = filters.new()
    shown = [(filter_.feed(piece), filter_.held, filter_.decided_chars) for piece in pieces]
    return [*shown, filter_.finish(), filter_.findings]


@pytest.mark.parametrize(("deciding", "searching"), PAIRS, ids=PATTERNS)
@given(pieces=PIECES)
@example(pieces=["\u200b" * (MAX_IGNORED - 1), "b", "\u200b", "ab"])
def test_a_piece_has_the_same_outcome_with_a_search_and_without_one(deciding, searching, pieces):
    searched = filtered(searching, pieces)
    assert filtered(deciding, pieces) == searched  # some steps are new
    assert filtered(deciding, pieces) == searched


def test_words_of_known_letters_are_not_searched(monkeypatch):
    filters = compile_rules(
        [
            Rule(name="words", action="redact", words=("token ring", "readme"), ignore_case=True),
            Rule(name="email", action="redact", ready_made="email"),
        ]
    )
    for letters in itertools.product("adehrstu", repeat=3):
        filtered(filters, [" ", *letters, *letters])
    monkeypatch.delattr(Matcher, "undecided")
    filter_ = filters.new()
    text = ["he", " heard", " a", " rather", " sad", " status", " ear", " rush", " hard"]
    assert "".join(map(filter_.feed, text)) + filter_.held == "".join(text)


def test_a_piece_with_other_characters_is_searched_once(monkeypatch):
    filters = compiled(r"\bword-[0-9]")
    pieces = [" über", " 漢字", " 🙂", " naïve"]
    for _ in range(10):  # each time, one more step is learned
        filtered(filters, pieces)
    monkeypatch.delattr(Matcher, "undecided")
    filter_ = filters.new()
    assert "".join(map(filter_.feed, pieces)) + filter_.held == "".join(pieces)


def test_a_piece_does_not_hold_more_than_the_longest_match():
    rule = Rule(name="found", action="redact", patterns=("a{2,}b",))
    filter_ = compile_rules([rule], max_match_chars=5).new()
    for piece in [*"aaa--aaa", "-aaaaaaaaa"]:
        filter_.feed(piece)
        assert filter_.held_chars <= 5


@pytest.mark.parametrize("text", ["b4111", "b\u0664", "b\u00b2", "b" * (MAX_CHARS + 1)])
def test_text_with_digits_and_long_text_are_not_kept(text):
    deciding = automaton_of("ab")
    state = deciding.state("^", "")
    for _ in range(3):
        deciding.outcome(state, text)
    assert not state


def test_a_state_is_not_found_for_long_text():
    deciding = automaton_of("a{2,}b")
    for count in range(1, MAX_HELD_CHARS + 1):
        assert deciding.state("^", "a" * count) is not UNKNOWN
    assert deciding.state("^", "a" * (MAX_HELD_CHARS + 1)) is UNKNOWN


def test_the_number_of_outcomes_is_bounded():
    deciding = automaton_of("ab")
    state = deciding.state("^", "")
    for char in "bc":
        deciding.outcome(state, char)
    for number in range(2 * MAX_OUTCOMES):
        assert deciding.outcome(state, f"b{number:b}".translate({48: "b", 49: "c"}))
    assert len(state) == MAX_OUTCOMES


def test_the_number_of_steps_is_bounded(monkeypatch):
    monkeypatch.setattr(automaton, "MAX_SIZE", 50)
    deciding = automaton_of("ab")
    state = deciding.state("^", "")
    for number in range(200):
        assert deciding.outcome(state, chr(33 + number % 90))
        assert len(state.steps) <= 50
        state = deciding.state("^", "")


def test_the_threads_of_all_states_count(monkeypatch):
    monkeypatch.setattr(automaton, "MAX_SIZE", 50)
    deciding = automaton_of("a[ab]{20}c")
    state = deciding.state("^", "")
    states = []
    for _ in range(20):
        states.append(state)
        state, *_ = deciding.outcome(state, "a")
    assert state.later
    kept = [each for each in states if each.steps]
    assert (
        1 < sum(len(each.first) + len(each.later) for each in kept) <= 50 + 20
    )  # those of the last one


def test_a_state_with_many_threads_is_left_to_the_search(monkeypatch):
    monkeypatch.setattr(automaton, "MAX_THREADS", 3)
    deciding = automaton_of("ab[cd]|ab[ce]|ab[cf]|ab[cg]")
    state = deciding.state("^", "")
    assert deciding.outcome(state, "b")
    assert deciding.outcome(state, "a") is None


def test_a_stream_continues_after_all_states_were_dropped(monkeypatch):
    filters = compiled("ab[0-9]")
    filter_ = filters.new()
    assert (filter_.feed("-a"), filter_.held) == ("-", "a")
    monkeypatch.setattr(automaton, "MAX_SIZE", 1)
    other = filters.new()
    for char in "xyz":
        other.feed(char)
    assert (filter_.feed("b"), filter_.feed("1")) == ("", "[redacted]")


@pytest.mark.parametrize("source", [r"x(?:a?){250}y", "|".join(f"word{n}" for n in range(200))])
def test_patterns_of_which_a_step_would_take_long_have_no_automaton(source):
    assert compiled(source).automaton is None


def test_a_step_with_too_many_threads_is_searched():
    states = automaton_of(r"x(?:a?){100}y")
    state = states.state("", "x")
    assert state is UNKNOWN or states.outcome(state, "a") is None


def test_characters_that_are_not_ascii_are_searched_and_not_remembered():
    states = automaton_of("ab")
    start = states.state("", "")
    for character in map(chr, range(0x4E00, 0x4F00)):
        assert states.outcome(start, character) is None
    assert not start.steps
