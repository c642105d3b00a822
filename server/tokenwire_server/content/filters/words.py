"""Whole words and phrases as a pattern.

RE2's word boundary is one of ASCII letters, digits and underscores. `is_whole` also recognizes those of other
alphabets. A word may begin or end with another character, as `C++` does: there it needs no boundary.
"""

from __future__ import annotations

from collections.abc import Iterable

from .folding import last_character
from .nodes import Alternatives, Assertion, Character, Node, Repetition, Sequence
from .syntax import character

_BOUNDARY = Assertion(r"\b", needs_next=True)
_NEXT_CHARACTER = Assertion("", needs_next=True)
_WHITESPACE = Repetition(Character(r"[\t-\r\x1c- ]"), 1, None)
"""RE2's `\\s` does not contain all of ASCII's. Whitespace beyond ASCII is folded to a space."""


def words_pattern(words: Iterable[str], *, ignore_case: bool) -> Node:
    """Return the pattern of folded words. Longer ones come first: they may begin with others."""
    ordered = sorted(
        {" ".join(word.split()) for word in words}, key=lambda word: (-len(word), word)
    )
    return Alternatives(tuple(_word(word, ignore_case) for word in ordered))


def _word(word: str, ignore_case: bool) -> Node:
    items: list[Node] = [
        _WHITESPACE if each == " " else character(each, ignore_case=ignore_case) for each in word
    ]
    if is_word_character(word[0]) and word[0].isascii():
        items.insert(0, _BOUNDARY)
    ends_ascii = is_word_character(word[-1]) and word[-1].isascii()
    items.append(_BOUNDARY if ends_ascii else _NEXT_CHARACTER)
    return Sequence(tuple(items))


def is_word_character(char: str) -> bool:
    return char.isalnum() or char == "_"


def is_whole(data: bytes, start: int, end: int) -> bool:
    """Return whether no word continues across one of the ends of a match."""
    return not _continues(data, start) and not _continues(data, end)


def _continues(data: bytes, position: int) -> bool:
    before = last_character(data, position).decode()
    after = data[position : position + 4].decode(errors="ignore")[:1]
    return bool(before and after) and is_word_character(before) and is_word_character(after)
