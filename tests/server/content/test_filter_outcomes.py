"""Outcomes of pieces that are kept: they change nothing, and hold no numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.content.filters import Rule, compile_rules
from tokenwire_server.content.filters.outcomes import MAX_CHARS, MAX_OUTCOMES, Outcome, Outcomes

# What each matches depends on the character before it: on a word character, a line, or the start of the text.
PATTERNS = (r"\bab", r"\Bab", r"(?m:^)ab", r"\Aab")


def compiled(pattern):
    return compile_rules([Rule(name="found", action="redact", patterns=(pattern,))])


PAIRS = [(compiled(pattern), compiled(pattern)) for pattern in PATTERNS]
PIECES = st.lists(st.sampled_from(["a", "ab", "_", "-", "\n", "b-", "-a", "é"]), max_size=6)


def filtered(filters, pieces, *, before_each=lambda: None):
    filter_ = filters.new()
    shown = []
    for piece in pieces:
        before_each()
        shown.append((filter_.feed(piece), filter_.held, filter_.decided_chars))
    return [*shown, filter_.finish()]


@pytest.mark.parametrize(("keeping", "searching"), PAIRS, ids=PATTERNS)
@given(pieces=PIECES)
def test_a_piece_that_was_searched_before_has_the_same_outcome_as_a_new_one(
    keeping, searching, pieces
):
    searched = filtered(searching, pieces, before_each=searching.outcomes.clear)
    assert filtered(keeping, pieces) == searched


@pytest.mark.parametrize("text", ["w 4111", "w" + "a" * (MAX_CHARS + 1)])
def test_text_with_digits_and_long_text_are_not_kept(text):
    outcomes = Outcomes()
    outcomes.keep(text, Outcome(1, b"a", "w"))
    assert not outcomes


def test_the_number_of_outcomes_is_bounded():
    outcomes = Outcomes()
    for number in range(2 * MAX_OUTCOMES):
        outcomes.keep(f"w{number:b}".translate({48: "a", 49: "b"}), Outcome(1, b"a", "w"))
        assert len(outcomes) <= MAX_OUTCOMES
