"""The folded view of a text, in which patterns are matched: characters that look alike are the same in it.

Each character is folded by itself, so that it does not matter how the text is cut: compatibility
decomposition (NFKD) without combining marks and without characters that are not visible, such as the
zero-width space; then, if configured, look-alikes of other alphabets. `é` and the wide form of `e` are both
`e`, and whitespace beyond ASCII is a space. One character may become none or several. Hangul syllables stay
whole.

Of many characters in a row that would be ignored, each MAX_IGNORED-th is not: it becomes U+FFFD. So the next
character, on which a word boundary depends, is never far away.

The folded text is UTF-8, because RE2 works on bytes.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Mapping

MAX_CACHED_CHARS = 10_000
MAX_IGNORED = 32

IGNORED_CATEGORIES = frozenset({"Mn", "Me", "Cf"})
"""Combining marks and format characters. Nothing is left of them."""

_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")
"""Invisible characters whose category is that of letters."""
_FIRST_TAG, _LAST_TAG = "\U000e0000", "\U000e0fff"
"""A block of invisible characters. Most are not assigned."""
_REPLACEMENT = "\ufffd"

# Letters that most fonts draw like the Latin letter.
_CYRILLIC = dict(zip("АВЕЅІЈКМНОРСТУХаеѕіјорсухһԁԛԝ", "ABESIJKMHOPCTYXaesijopcyxhdqw", strict=True))
_GREEK = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧανορυχικ", "ABEZHIKMNOPTYXavopuxik", strict=True))

LATIN_LOOK_ALIKES: Mapping[str, str] = _CYRILLIC | _GREEK
"""Cyrillic and Greek letters that look like Latin letters."""


class Folding:
    """How characters are folded. Shared by all streams."""

    def __init__(self, look_alikes: Mapping[str, str] | None = None) -> None:
        self._look_alikes = dict(look_alikes or {})
        for character, replacement in self._look_alikes.items():
            if len(character) != 1 or character.isascii() or not replacement:
                raise ValueError(
                    f"the look-alike {character!r} must be one character that is not ASCII, "
                    "with a replacement that is not empty"
                )
        self._cache: dict[str, bytes] = {}

    def character(self, character: str) -> str:
        """Return what a character becomes: no character, one or several."""
        if character.isascii():
            return character
        if character in self._look_alikes:
            return self._look_alikes[character]
        if "\uac00" <= character <= "\ud7a3":  # Hangul syllables
            return character
        if "\ud800" <= character <= "\udfff":
            return _REPLACEMENT
        if character in _FILLERS or _FIRST_TAG <= character <= _LAST_TAG:
            return ""
        if character.isspace():
            return " "
        return "".join(
            self._look_alikes.get(part, part)
            for part in unicodedata.normalize("NFKD", character)
            if unicodedata.category(part) not in IGNORED_CATEGORIES
        )

    def text(self, text: str) -> str:
        return "".join(map(self.character, text))

    def aligned(self, text: str) -> str | None:
        """Return the folded text if each character becomes one character. None: one of them does not."""
        parts = self.encoded(text)
        folded = b"".join(parts).decode()
        return folded if len(folded) == len(text) and all(parts) else None

    def encoded(self, text: str) -> list[bytes]:
        """Return what each character becomes, in UTF-8."""
        cache = self._cache
        try:
            return [cache[character] for character in text]
        except KeyError:
            if len(cache) > MAX_CACHED_CHARS:
                cache.clear()
            for character in set(text):
                cache[character] = self.character(character).encode()
            return [cache[character] for character in text]


class FoldedText:
    """A part of a text, in the folded view, after the character before it.

    A position is an offset in `data`, an index is that of a character of the original text. `ignored` counts
    the ignored characters directly before this part.
    """

    __slots__ = ("_ignored", "_positions", "data", "length", "start")

    def __init__(self, context: bytes, ignored: int, text: str, folding: Folding) -> None:
        self.start = len(context)
        self.length = len(text)
        self._ignored = ignored
        self._positions: list[int] | None = None
        if text.isascii():
            self.data = context + text.encode()
            return
        parts = folding.encoded(text)
        position = self.start
        positions = [position]
        for index, part in enumerate(parts):
            ignored = 0 if part else ignored + 1
            if ignored == MAX_IGNORED:
                parts[index] = _REPLACEMENT.encode()
                ignored = 0
            position += len(parts[index])
            positions.append(position)
        self.data = context + b"".join(parts)
        self._positions = positions

    def position(self, index: int) -> int:
        """Return where the character with this index begins."""
        positions = self._positions
        return self.start + index if positions is None else positions[index]

    def index(self, position: int) -> int:
        """Return the index of the character that contains the position."""
        positions = self._positions
        return position - self.start if positions is None else bisect_right(positions, position) - 1

    def end_index(self, position: int) -> int:
        """Return the index after the last character of a match that ends at the position."""
        return self.index(position - 1) + 1

    def window_end(self, position: int, chars: int) -> int:
        """Return where `chars` characters end, of which the first contains the position."""
        positions = self._positions
        if positions is None:
            end = position + chars
            return min(len(self.data), end)
        return positions[min(self.index(position) + chars, self.length)]

    def index_after_last(self) -> int:
        """Return the index after the last character that is not ignored."""
        positions = self._positions
        return self.length if positions is None else bisect_left(positions, len(self.data))

    def ignored_before(self, index: int) -> int:
        """Return how many characters directly before the index are ignored."""
        positions = self._positions
        if positions is None:
            return 0 if index else self._ignored
        first = bisect_left(positions, positions[index])
        return index - first + (0 if first else self._ignored)

    def last_character(self, index: int) -> bytes:
        """Return the character before the index. Empty at the start of the text."""
        return last_character(self.data, self.position(index))


def last_character(data: bytes, end: int) -> bytes:
    """Return the UTF-8 of the character that ends at `end`. Empty at the start."""
    start = end - 1
    while start > 0 and data[start] & 0xC0 == 0x80:
        start -= 1
    return data[max(start, 0) : end]


def first_character(data: bytes, start: int) -> bytes:
    """Return the UTF-8 of the character that begins at `start`. Empty at the end."""
    end = start + 1
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end += 1
    return data[start:end]
