"""Recognize a model in a loop: a unit of text that directly follows itself again and again."""

from __future__ import annotations

CHECK_CHARS = 256
"""The text is checked each time that it is a multiple of this length, so that it does not matter how it
arrives in pieces."""
MAX_UNIT_CHARS = 200


class RepeatCounter:
    """Measures the repetition at the end of a text. Takes 1 kB, and constant time for each character."""

    __slots__ = ("_runs", "_tail")

    def __init__(self) -> None:
        self._tail = ""
        # By the length of the unit: how many characters at the end are equal to those one unit before.
        self._runs: dict[int, int] = {}

    def add(self, text: str) -> int:
        """Continue with the next CHECK_CHARS characters; return how often a unit is repeated at the end.

        Of units of up to MAX_UNIT_CHARS characters the most frequent one counts. 1: none is repeated.
        """
        tail = self._tail + text
        runs: dict[int, int] = {}
        last = tail[-1]
        size = len(tail)
        for unit in range(1, min(MAX_UNIT_CHARS, size - 1) + 1):
            if tail[size - 1 - unit] != last:
                continue
            length = _equal_end(tail, unit, min(CHECK_CHARS, size - unit))
            runs[unit] = length + (self._runs.get(unit, 0) if length == CHECK_CHARS else 0)
        self._runs = runs
        self._tail = tail[-MAX_UNIT_CHARS:]
        return 1 + max((length // unit for unit, length in runs.items()), default=0)


def _equal_end(text: str, unit: int, most: int) -> int:
    """Return how many characters at the end, at most `most`, are equal to those one unit before."""
    size = len(text)
    least = 1  # the caller has compared the last one
    while least < most:
        # Most differ soon: first a few characters, then half of the rest.
        middle = least + max((most - least + 1) // 2, 1) if least >= 8 else min(least + 3, most)
        if text[size - middle : size - least] == text[size - middle - unit : size - least - unit]:
            least = middle
        else:
            most = middle - 1
    return least
