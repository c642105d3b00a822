"""The outcomes of short pieces of text, so that RE2 does not search the same piece again.

Most tokens of an answer are words that earlier answers contained: 60 to 80 % in technical English. A search
takes 0.6 us, and longer in a server, because google-re2 releases the interpreter lock and other threads run.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_CHARS = 24
"""Maximum length of a text whose outcome is kept."""
MAX_OUTCOMES = 8192
"""Maximum number of outcomes. When there are more, all are dropped. They take about 1 MB."""

_WITHOUT_DIGITS = re.compile(r"[^0-9]+")


class Outcome(NamedTuple):
    """The outcome of a text in which no match is complete."""

    shown_chars: int
    """Characters that pass. The rest is held: a match may begin with it."""
    context: bytes
    """The character before the rest."""
    before: str
    """Its `boundary`."""


class Outcomes(dict[str, Outcome]):
    """Outcomes of the patterns of one filter. Shared by all streams, and by all tenants of the filter.

    A key is the `boundary` of the character before a text, and the text. Text with digits is not kept: it may
    be part of a number that identifies a person.
    """

    def keep(self, key: str, outcome: Outcome) -> None:
        """Keep the outcome of a text, if it is short and has no digits."""
        if len(key) <= MAX_CHARS + 1 and _WITHOUT_DIGITS.fullmatch(key):
            if len(self) >= MAX_OUTCOMES:
                self.clear()
            self[key] = outcome


NO_OUTCOMES = Outcomes()
"""The outcomes of filters that have to search every piece."""


def boundary(context: bytes) -> str:
    """Return the kind of the character before a text, as patterns distinguish it.

    The kinds are: the start of the text, the start of a line, a word character, and any other character.
    """
    if context.isalnum() or context == b"_":
        return "w"
    if context == b"\n":
        return context.decode()
    return "." if context else "^"
