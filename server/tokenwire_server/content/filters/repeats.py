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
        bits, number = _number(tail)
        for unit in range(1, min(MAX_UNIT_CHARS, size - 1) + 1):
            if tail[size - 1 - unit] != last:
                continue
            most = min(CHECK_CHARS, size - unit)
            different = number ^ (number >> bits * unit)
            equal = ((different & -different).bit_length() - 1) // bits if different else most
            if equal >= CHECK_CHARS:
                runs[unit] = CHECK_CHARS + self._runs.get(unit, 0)
            else:
                runs[unit] = min(equal, most)
        self._runs = runs
        self._tail = tail[-MAX_UNIT_CHARS:]
        return 1 + max((length // unit for unit, length in runs.items()), default=0)


def _number(text: str) -> tuple[int, int]:
    """Return a text as a number with its last character in the lowest bits, and the bits of a character.

    The number of equal characters at the end of two texts is then one operation for all of them.
    """
    if text.isascii():
        return 8, int.from_bytes(text.encode(), "big")
    return 32, int.from_bytes(text.encode("utf-32-be", "surrogatepass"), "big")
