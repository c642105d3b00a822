"""The search for matches in the texts of a request. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from .filter_set import ConfiguredFilter
from .filters import Filter
from .input_text import InputText


class BlockedText(msgspec.Struct, frozen=True):
    """A text of a request in which a filter with the action "block" found something."""

    path: str
    rule: str
    """The rule that acted, such as `filters.secrets.patterns[0]`."""


class InputSearch:
    """Searches texts with filters, each in the order of the configuration, in small steps.

    Each text is searched by itself: no match begins in one and ends in the next. After a filter has blocked
    a text, the filters behind it do not see it.
    """

    def __init__(self, filters: Sequence[ConfiguredFilter]) -> None:
        self._filters = filters
        self.counts = Counter[tuple[str, str]]()
        """How often each filter acted, by its name and action: the blocked texts, or the matches."""

    def steps(self, texts: Iterable[InputText]) -> Iterator[BlockedText | None]:
        """Search the texts. Yield each that is blocked, and None after each small step."""
        for text in texts:
            searches = [(chosen, chosen.compiled.new()) for chosen in self._filters]
            for piece in text.pieces():
                for position, (_, search) in enumerate(searches, 1):
                    search.feed(piece)
                    yield None
                    if search.is_blocked:
                        del searches[position:]
                if searches[0][1].is_blocked:
                    break
            for chosen, search in searches:
                search.finish()
                self._count(chosen, search)
                if search.is_blocked:
                    yield BlockedText(text.path, f"filters.{chosen.name}.{_place(search)}")
                    break

    def _count(self, chosen: ConfiguredFilter, search: Filter) -> None:
        count = sum(finding.count for finding in search.findings.values())
        if count:
            self.counts[chosen.name, chosen.config.action] += count


def _place(search: Filter) -> str:
    """Return the place of the rule that blocked. It is the only one that acted."""
    (finding,) = search.findings.values()
    return finding.first_place
