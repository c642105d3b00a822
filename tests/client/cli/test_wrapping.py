"""Lines of reasoning are broken between words, whatever the pieces in which it arrives."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from tokenwire.cli.wrapping import WordWrapper

from ..conftest import finished, plays, reasoning, started, text


def wrapped(pieces, width):
    wrapper = WordWrapper(width)
    return "".join([*map(wrapper.feed, pieces), wrapper.flush()])


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        ("The quick brown fox", "The quick\nbrown fox"),
        ("The quick  brown", "The quick\nbrown"),
        ("  indented\n\n- kept ", "  indented\n\n- kept "),
        ("a toolongforaline b", "a\ntoolongforaline\nb"),
        ("日本語 日本語", "日本語\n日本語"),
        ("1234567890 x", "1234567890\nx"),
    ],
)
def test_a_line_is_broken_where_a_word_does_not_fit(whole, shown):
    assert wrapped([whole], 10) == shown


@given(st.lists(st.text("ab \n\t", max_size=5), max_size=20), st.integers(1, 12))
@settings(max_examples=scaled(100))
def test_pieces_do_not_matter_and_no_word_is_lost(pieces, width):
    whole = "".join(pieces)
    shown = wrapped(pieces, width)

    assert shown == wrapped([whole], width)
    assert shown.split() == whole.split()
    if "\t" not in whole:
        assert all(
            len(line.rstrip()) <= width or " " not in line.strip() for line in shown.split("\n")
        )


async def test_a_terminal_wraps_reasoning_between_words(server, command_line, terminal):
    pieces = ["The user wan", "ts to know", " what this is."]
    server.script = plays(
        started(),
        *(reasoning(number, piece) for number, piece in enumerate(pieces, 2)),
        text(5, "It is.", 1),
        finished(6),
    )

    process = await terminal.start(command_line, "chat", "Hi", columns=20)

    assert await terminal.end_of(process) == 0
    plain = re.sub(r"\x1b\[[\d;]*[mK]", "", terminal.shown)
    assert plain.startswith("The user wants to\nknow what this is.\n\nIt is.")
