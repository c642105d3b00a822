"""Percentiles and a histogram of measured times. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from .report import span_text
from .usage.text import bar

PERCENTILES = (50, 90, 99)

_BAR_CELLS = 40
_STEPS = (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)
"""The bounds of the histogram in each power of ten."""


def percentile(sorted_s: Sequence[float], percent: int) -> float:
    """Return a percentile: the smallest value such that at least this fraction of the values is not larger.

    Raises:
        ValueError: there are no values.
    """
    if not sorted_s:
        raise ValueError("there are no values")
    return sorted_s[max(0, math.ceil(len(sorted_s) * percent / 100) - 1)]


def summary(times_s: Sequence[float]) -> dict[str, float]:
    """Return the percentiles and the largest time, in milliseconds. Empty: nothing was measured."""
    if not times_s:
        return {}
    ordered = sorted(times_s)
    figures = {f"p{percent}": percentile(ordered, percent) for percent in PERCENTILES}
    return {
        name: round(value * 1000, 3) for name, value in (figures | {"max": ordered[-1]}).items()
    }


def buckets(times_s: Sequence[float]) -> list[tuple[float, float, int]]:
    """Return the histogram: lower bound, upper bound (not included) and count, without empty ends."""
    if not times_s:
        return []
    exponent = math.floor(math.log10(max(min(times_s), 1e-6))) - 1  # log10 may round up
    bounds: list[float] = []
    while not bounds or bounds[-1] <= max(times_s):
        bounds += (step * 10.0**exponent for step in _STEPS)
        exponent += 1
    counted = [
        (low, high, sum(low <= time < high for time in times_s)) for low, high in pairwise(bounds)
    ]
    filled = [position for position, (_, _, count) in enumerate(counted) if count]
    return counted[filled[0] : filled[-1] + 1] if filled else []


def histogram_lines(name: str, times_s: Sequence[float]) -> Iterator[str]:
    """Return a title with the percentiles, and a line with a bar for each bucket."""
    figures = summary(times_s)
    if not figures:
        yield f"{name}: nothing was measured"
        return
    parts = (f"{key} {span_text(value / 1000)}" for key, value in figures.items())
    yield f"{name}: {', '.join(parts)} ({len(times_s)} measured)"
    rows = buckets(times_s)
    most = max(count for _, _, count in rows)
    digits = len(str(most))
    for low, high, count in rows:
        span = f"{_bound(low)} to {_bound(high)}"
        yield f"  {span:>18}  {count:>{digits}}  {bar(count, most, _BAR_CELLS)}".rstrip()


def _bound(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"
