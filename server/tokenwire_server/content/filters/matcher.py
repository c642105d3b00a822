"""All patterns of a filter as a few expressions of RE2, and the search for the next match.

What a match is does not depend on how the text arrives. The match at a start is the preferred one of those
that are at most `max_chars` characters long, without those that a check refuses. Of all starts the first one
counts, and at one start the pattern that is listed first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from .folding import MAX_CACHED_CHARS, FoldedText, first_character
from .nodes import Node, either

MAX_PROGRAM_SIZE = 4000
"""Of one pattern. RE2 takes time proportional to it, at worst, for each byte of text."""
MAX_TOTAL_PROGRAM_SIZE = 40_000
NOTHING = r"[^\x{0}-\x{10FFFF}]"
"""An expression that matches nothing."""
MAX_MEMORY_BYTES = 16 << 20
"""Of one expression: for the states that RE2 finds in texts. When it is full, RE2 starts again."""

Find = Callable[[bytes, int, int], Sequence[tuple[int, int]]]
"""Looks in data from a start to an end. Returns one span. (-1, -1): nothing was found."""

Accept = Callable[[bytes, int, int], int]
"""Returns where the valid part of a match ends, which is given as its data, start and end. 0: none is."""


class Missing(ImportError):
    """The package google-re2 is not installed."""

    def __init__(self) -> None:
        super().__init__('content filters need google-re2: pip install "tokenwire-server[filters]"')


class TooLarge(ValueError):
    """An expression needs too much memory or time."""


class Pattern(NamedTuple):
    node: Node
    accept: Accept | None = None


class Match(NamedTuple):
    """A match. `start` and `end` are positions in the folded text."""

    pattern: int
    start: int
    end: int


class Expression:
    """A compiled expression of RE2."""

    __slots__ = ("match", "search", "size")

    def __init__(self, regexp: Any) -> None:
        self.search = _find(regexp, "UNANCHORED", regexp.search)
        """Finds the first match."""
        self.match = _find(regexp, "ANCHOR_START", regexp.match)
        """Finds the match at the start."""
        self.size: int = regexp.programsize
        """Instructions of its program."""


def _find(regexp: Any, anchor: str, method: Callable[..., Any]) -> Find:
    """Return a function that finds the expression.

    It calls RE2 directly if it can: the methods of google-re2 take 1.5 us, of which RE2 takes 0.6.
    """
    native = getattr(regexp, "_regexp", None)
    if native is not None:
        return partial(native.Match, getattr(type(native).Anchor, anchor))

    def find(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
        found = method(data, start, end)
        return [(-1, -1) if found is None else found.span()]

    return find


def compiled(source: str) -> Expression:
    """Compile an expression.

    Raises:
        Missing: google-re2 is not installed.
        TooLarge: the expression is too large, or RE2 refuses it.
    """
    try:
        import re2
    except ImportError as error:
        raise Missing from error
    options = re2.Options()
    options.max_mem = MAX_MEMORY_BYTES
    options.log_errors = False
    options.never_capture = True
    try:
        return Expression(re2.compile(source.encode(), options))
    except re2.error as error:
        problem = error.args[0] if error.args else error
        raise TooLarge(problem.decode() if isinstance(problem, bytes) else str(problem)) from error


class Matcher:
    """The patterns of a filter. Shared by all streams."""

    def __init__(self, patterns: Sequence[Pattern], max_chars: int) -> None:
        self._patterns = patterns
        self._max_chars = max_chars
        sources = [pattern.node.source for pattern in patterns]
        beginnings = either(*(pattern.node.nonempty_beginnings for pattern in patterns))
        of_beginnings = f"(?:{NOTHING if beginnings is None else beginnings})\\z"
        self._any = compiled("|".join(sources))
        concerned = compiled("|".join([*sources, of_beginnings]))
        if concerned.size > MAX_TOTAL_PROGRAM_SIZE:
            raise TooLarge(f"{concerned.size} instructions, more than {MAX_TOTAL_PROGRAM_SIZE}")
        beginning = compiled(of_beginnings)
        self._find_any = self._any.search
        self._find_beginning = beginning.search
        self._find_concerned = concerned.search
        """Finds a match or the beginning of one at the end. What it does not find in is final."""
        self._open_bytes: dict[int, bool] = {}
        """Whether all patterns are open whose matches may begin with a byte. Filled by `_begins`."""
        self._single = [compiled(source) for source in sources]
        self._first = [compiled(pattern.node.first or "") for pattern in patterns]
        self._candidates: dict[bytes, tuple[int, ...]] = {}
        self._others: dict[tuple[int, ...], Expression] = {}

    def pending(self, text: FoldedText, position: int) -> int:
        """Return where the first match could begin that more text would complete or make longer."""
        end = len(text.data)
        [(first, _)] = self._find_beginning(text.data, position, end)
        return end if first < 0 else first

    def undecided(self, data: bytes, start: int, end: int) -> int:
        """Return where the first match could begin, like `pending`, if no match is complete before.

        Otherwise, or if that is not sure, return -1.
        """
        [(first, last)] = self._find_concerned(data, start, end)
        if first < 0:
            return end
        return first if last == end and self._begins(data, first, end) else -1

    def _begins(self, data: bytes, first: int, end: int) -> bool:
        """Return whether a match may begin at `first` that more text would complete or make longer.

        `_find_concerned` finds, from `first` to the end, a match or the beginning of one. If all matches that
        begin with this byte are also beginnings, it is a beginning.
        """
        byte = data[first]
        is_open = self._open_bytes.get(byte)
        if is_open is None:
            is_open = self._open_bytes[byte] = byte < 0x80 and all(
                self._patterns[index].node.is_open for index in self._starting_with(bytes((byte,)))
            )
        return is_open or self._find_beginning(data, first, end)[0][0] == first

    def next(self, text: FoldedText, first: int, limit: int) -> Match | None:
        """Return the first match that starts in `first` to `limit`, without `limit`."""
        while first < limit:
            found = self._next_start(text, first, limit)
            if found is None:
                return None
            match = self._match_at(text, *found)
            if match is not None:
                return match
            first = found[0] + 1
        return None

    def _next_start(self, text: FoldedText, first: int, limit: int) -> tuple[int, int] | None:
        """Return the first start of a match that is not too long, and the end of such a match.

        It is the end of the match of the first pattern, before the checks.
        """
        while first < limit:
            last_end = text.window_end(limit - 1, self._max_chars)
            [(start, end)] = self._find_any(text.data, first, last_end)
            if not 0 <= start < limit:
                return None
            window_end = text.window_end(start, self._max_chars)
            if end <= window_end:
                return start, end
            [(found, end)] = self._any.match(text.data, start, window_end)
            if found >= 0:
                return start, end
            # Many starts may have matches that are too long. A smaller limit excludes those of its half.
            first, middle = start + 1, (start + 1 + limit) // 2
            if first < middle:
                earlier = self._next_start(text, first, middle)
                if earlier is not None:
                    return earlier
            first = max(first, middle)
        return None

    def _match_at(self, text: FoldedText, start: int, end: int) -> Match | None:
        """Return the match at a start where there is one before the checks. The first one ends at `end`."""
        candidates = self._starting_with(first_character(text.data, start))
        if len(candidates) == 1:
            return self._valid(candidates[0], text, start, end)
        window_end = text.window_end(start, self._max_chars)
        for order, index in enumerate(candidates):
            [(found, end)] = self._single[index].match(text.data, start, window_end)
            if found < 0:
                continue
            match = self._valid(index, text, start, end)
            if match is not None:
                return match
            others = candidates[order + 1 :]
            if not others or not self._any_of(others, text.data, start, window_end):
                return None
        return None

    def _valid(self, pattern: int, text: FoldedText, start: int, end: int) -> Match | None:
        accept = self._patterns[pattern].accept
        if accept is not None:
            end = accept(text.data, start, end)
        return Match(pattern, start, end) if end else None

    def _any_of(self, patterns: tuple[int, ...], data: bytes, start: int, end: int) -> bool:
        """Return whether a match of one of the patterns is at the start."""
        expression = self._others.get(patterns)
        if expression is None:
            expression = compiled("|".join(self._patterns[index].node.source for index in patterns))
            self._others[patterns] = expression
        [(found, _)] = expression.match(data, start, end)
        return found >= 0

    def _starting_with(self, character: bytes) -> tuple[int, ...]:
        """Return the patterns whose matches may begin with a character."""
        found = self._candidates.get(character)
        if found is None:
            if len(self._candidates) > MAX_CACHED_CHARS:
                self._candidates.clear()
            found = tuple(
                index
                for index, first in enumerate(self._first)
                if first.match(character, 0, len(character))[0][0] >= 0
            )
            self._candidates[character] = found
        return found
