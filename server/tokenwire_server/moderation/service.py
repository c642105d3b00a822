"""What a moderation service is, whatever its protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import msgspec

TextSource = Literal["input", "output"]
"""Whether a text is from a request or from an answer."""

MAX_CATEGORIES = 32
MAX_CATEGORY_CHARS = 64
"""Bounds of what is kept of a verdict: callers get the names of categories."""


class Verdict(msgspec.Struct, frozen=True):
    """What a service says about a text."""

    flagged: bool
    categories: tuple[str, ...] = ()
    """The names of the categories that apply, in the service's order. A service returns all of them."""

    @classmethod
    def of(
        cls, *, flagged: bool, categories: Iterable[str], counting: frozenset[str] = frozenset()
    ) -> Verdict:
        """Return a verdict with at most MAX_CATEGORIES names, without what cannot be printed.

        If there are names in `counting`, only these count, and decide.
        """
        if counting:
            categories = [name for name in categories if name in counting]
            flagged = bool(categories)
        names = [name[:MAX_CATEGORY_CHARS] for name in categories if name.isprintable() and name]
        return cls(flagged, tuple(names[:MAX_CATEGORIES]))


class ModerationFailed(Exception):
    """A service could not check a text. `str(error)` is for the operator, and contains no text."""


class ModerationService(Protocol):
    """Checks texts. The caller bounds the time. Cancellation closes the connection."""

    async def check(self, text: str, source: TextSource) -> Verdict:
        """Return what the service says about a text. Raises ModerationFailed."""
        ...
