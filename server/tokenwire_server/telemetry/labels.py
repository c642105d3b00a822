"""Bounded sets of label values: each new value makes new time series, which are never removed."""

from __future__ import annotations

from collections.abc import Iterable

OTHER = "other"
"""The label of all values that are not in the set."""


class KnownNames:
    """At most `max_count` names that callers chose, in addition to those that the operator chose."""

    def __init__(self, names: Iterable[str], *, max_count: int) -> None:
        self._names = set(names)
        self._free = max_count

    def add(self, name: str) -> None:
        """Add a name, if there is room."""
        if self._free and name not in self._names:
            self._names.add(name)
            self._free -= 1

    def include(self, names: Iterable[str]) -> None:
        """Add names that the operator chose."""
        self._names.update(names)

    def __contains__(self, name: str) -> bool:
        return name in self._names
