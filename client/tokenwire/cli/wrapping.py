"""Wraps text that arrives in pieces into lines, between words. Pure."""

from __future__ import annotations

import re

from .table import cell_width

_PIECES = re.compile(r"\n|[^\S\n]+|\S+")


class WordWrapper:
    """Wraps text to a width in terminal cells. A word is returned when it is complete.

    Spaces and line feeds are kept, except for the spaces where a line is broken.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._column = 0
        self._space = ""
        self._word = ""

    def feed(self, text: str) -> str:
        """Add a piece. Return what can be written, without the last word, which may continue."""
        pieces = _PIECES.findall(self._word + text)
        is_word = bool(pieces) and not pieces[-1].isspace()
        self._word = pieces.pop() if is_word else ""
        return "".join(map(self._placed, pieces))

    def flush(self) -> str:
        """Return the last word, and the spaces after it."""
        rest = self._placed(self._word) if self._word else ""
        rest, self._word, self._space = rest + self._space, "", ""
        return rest

    def _placed(self, piece: str) -> str:
        if piece == "\n":
            placed, self._space, self._column = self._space + "\n", "", 0
            return placed
        if piece.isspace():
            self._space += piece
            return ""
        space, self._space = self._space, ""
        width = cell_width(piece)
        needed = self._column + cell_width(space.expandtabs()) + width
        if self._column and needed > self._width:
            self._column = width
            return "\n" + piece
        self._column = needed
        return space + piece
