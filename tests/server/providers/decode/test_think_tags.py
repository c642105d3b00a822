"""Reasoning between tags in a text."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire_server.providers.decode.openai_chat.think_tags import MAX_SPACE, ThinkTags

SPACE = " " * MAX_SPACE


def split(*pieces, is_open=False):
    """Return the reasoning and the rest of a text in pieces."""
    tags = ThinkTags(is_open=is_open)
    found = [piece for text in pieces for piece in tags.feed(text)] + tags.flush()
    assert all(text for _, text in found)
    assert found == sorted(found, key=lambda piece: not piece[0]), "reasoning comes first"
    return tuple(
        "".join(text for kind, text in found if kind is wanted) for wanted in (True, False)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>Hm.</think>Four.", ("Hm.", "Four.")),
        (" \n<think>\nHm.\n</think>\n\nFour. ", ("Hm.", "Four. ")),
        ("<think>a < b </thin</think>c", ("a < b </thin", "c")),
        ("<think></think>Four.", ("", "Four.")),
        ("<think>Hm.", ("Hm.", "")),
        ("Use <think> and </think>.", ("", "Use <think> and </think>.")),
        ("<think>a</think>b<think>c</think>", ("a", "b<think>c</think>")),
        ("<thin", ("", "<thin")),
        (" Four.", ("", " Four.")),
        ("", ("", "")),
        (f"{SPACE} <think>a</think>", ("", f"{SPACE} <think>a</think>")),
        (f"<think>a{SPACE} </think>b", ("a ", "b")),
    ],
)
def test_reasoning_at_the_beginning_is_split_off_wherever_the_text_is_cut(text, expected):
    assert split(text) == expected
    assert split(*text) == expected
    for cut in range(len(text)):
        assert split(text[:cut], text[cut:]) == expected, cut


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hm.\n</think>\nFour.", ("Hm.", "Four.")),
        (" <think>\nHm.</think>Four.", ("Hm.", "Four.")),
        ("<thin", ("<thin", "")),
        (" \n", ("", "")),
    ],
)
def test_text_that_begins_with_reasoning_may_have_the_opening_tag(text, expected):
    assert split(text, is_open=True) == expected
    assert split(*text, is_open=True) == expected


@settings(max_examples=scaled(200), derandomize=True)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", " ", "\n", "<", "a", "</"]), max_size=12),
    st.lists(st.integers(0, 60), max_size=5),
    st.booleans(),
)
def test_no_cut_changes_the_result(words, cuts, is_open):
    text = "".join(words)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]

    pieces = (text[a:b] for a, b in itertools.pairwise(edges))
    assert split(*pieces, is_open=is_open) == split(text, is_open=is_open)


@pytest.mark.parametrize("piece", ["a" + " " * 99, "</", " </", "a "])
def test_what_is_kept_is_bounded(piece):
    tags = ThinkTags(is_open=True)
    for _ in range(1000):
        tags.feed(piece)

    assert len("".join(text for _, text in tags.flush())) <= MAX_SPACE + len("</think>")
