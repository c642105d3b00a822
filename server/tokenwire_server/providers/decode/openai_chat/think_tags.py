"""Reasoning that a server leaves in the text, between `<think>` and `</think>`."""

from __future__ import annotations

from typing import Literal

from ....events import Delta, TextDelta
from .blocks import Blocks

OPENING = "<think>"
CLOSING = "</think>"
MAX_SPACE = 64
"""Maximum number of white space characters before a tag that are dropped."""

Piece = tuple[bool, str]
"""Whether a piece of text is reasoning, and the text. Never empty."""


class ThinkTags:
    """Splits a text into reasoning and the rest.

        Reasoning is only at the beginning of a text, so that an answer can mention the tags. With
    `is_open`, it begins there without a tag, because the tag is part of the model's prompt; some models
    repeat it, which makes no difference. White space around tags is dropped. At most the beginning of one
    tag is kept between the pieces, with its space.
    """

    __slots__ = ("_held", "_is_open", "_place")

    def __init__(self, *, is_open: bool = False) -> None:
        self._place: Literal["start", "reasoning start", "reasoning", "rest start", "rest"]
        self._place = "start"
        self._is_open = is_open
        self._held = ""

    def feed(self, text: str) -> list[Piece]:
        if self._place == "rest":
            return [(False, text)] if text else []
        text, self._held = self._held + text, ""
        pieces: list[Piece] = []
        if self._place == "start":
            stripped = text.lstrip()
            may_be_tag = len(text) - len(stripped) <= MAX_SPACE
            if may_be_tag and len(stripped) < len(OPENING) and OPENING.startswith(stripped):
                self._held = text
                return []
            is_tag = may_be_tag and stripped.startswith(OPENING)
            self._place = "reasoning start" if is_tag or self._is_open else "rest"
            text = stripped[len(OPENING) :] if is_tag else text
        if self._place == "reasoning start":
            text = text.lstrip()
            if text:
                self._place = "reasoning"
        if self._place == "reasoning":
            reasoning, tag, text = text.partition(CLOSING)
            if tag:
                reasoning = reasoning[: len(reasoning) - _space_chars(reasoning)]
                self._place = "rest start"
            else:
                end = len(reasoning) - _held_chars(reasoning)
                reasoning, self._held = reasoning[:end], reasoning[end:]
            if reasoning:
                pieces.append((True, reasoning))
        if self._place == "rest start":
            text = text.lstrip()
            if text:
                self._place = "rest"
        if self._place == "rest" and text:
            pieces.append((False, text))
        return pieces

    def flush(self) -> list[Piece]:
        """Return what is kept, because the text ends or other content begins."""
        held, self._held = self._held, ""
        if self._place == "start" and held:
            self._place = "reasoning" if self._is_open else "rest"
            if not self._is_open:
                return [(False, held)]
        return [(True, held)] if held and not held.isspace() else []


class TaggedText:
    """Adds a text with tags to the blocks of an answer."""

    __slots__ = ("_blocks", "_tags")

    def __init__(self, blocks: Blocks, tags: ThinkTags) -> None:
        self._blocks = blocks
        self._tags = tags

    def add(self, text: str, deltas: list[Delta]) -> None:
        self._add_pieces(self._tags.feed(text), deltas)

    def add_delta(self, delta: TextDelta, deltas: list[Delta]) -> None:
        """Add the text of a delta, at any index."""
        self.add(delta.text, deltas)

    def flush(self, deltas: list[Delta]) -> None:
        """Add what is kept, because the text ends or other content begins."""
        self._add_pieces(self._tags.flush(), deltas)

    def _add_pieces(self, pieces: list[Piece], deltas: list[Delta]) -> None:
        for is_reasoning, text in pieces:
            if is_reasoning:
                self._blocks.reasoning(text, deltas)
            else:
                self._blocks.text(text, deltas)


def _held_chars(text: str) -> int:
    """Return the length of the end of a text that may belong to a closing tag, with the space before it."""
    for length in range(min(len(CLOSING) - 1, len(text)), 0, -1):
        if text.endswith(CLOSING[:length]):
            return length + _space_chars(text[:-length])
    return _space_chars(text)


def _space_chars(text: str) -> int:
    """Return the length of the white space at the end of a text."""
    return min(len(text) - len(text.rstrip()), MAX_SPACE)
