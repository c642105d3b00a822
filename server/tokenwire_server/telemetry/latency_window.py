"""Latency, speed and errors of the last minutes, in bounded memory. Pure: times are parameters."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from itertools import accumulate
from typing import NamedTuple

SLICE_S = 60.0
SLICES = 15
WINDOW_S = SLICE_S * SLICES
"""The length of the window. It moves in steps of a slice, so it covers at least `WINDOW_S - SLICE_S`."""

MIN_S = 0.001
MAX_S = 3600.0
GROWTH = 1.1
"""Each bucket of times is this factor wider than the one before it."""
MAX_ERROR = math.sqrt(GROWTH) - 1
"""The relative error of a quantile between MIN_S and MAX_S: 4.9 %. Other times count as one of these two."""

_LOG_GROWTH = math.log(GROWTH)
_BUCKETS = math.ceil(math.log(MAX_S / MIN_S) / _LOG_GROWTH)
_NO_TIMES = array("I", [0] * _BUCKETS)


class LatencyFigures(NamedTuple):
    """The figures of one model. A figure without samples is None."""

    attempt_count: int
    """Attempts whose result is known: they ended in the window."""
    error_count: int
    """Attempts among them that failed."""
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    """Seconds from sending a request to its first content, of the attempts with a first content in the
    window."""
    output_tokens_per_second: float | None
    """Output tokens after the first one, divided by the time that they took, over all attempts."""

    @property
    def error_rate(self) -> float | None:
        """The share of the attempts that failed, from 0 to 1."""
        return self.error_count / self.attempt_count if self.attempt_count else None


class _Slice:
    """The samples of SLICE_S."""

    __slots__ = ("attempt_count", "error_count", "number", "output_s", "output_tokens", "ttft")

    def __init__(self, number: int) -> None:
        self.number = number
        self.attempt_count = 0
        self.error_count = 0
        self.output_tokens = 0
        self.output_s = 0.0
        self.ttft = _NO_TIMES[:]  # the number of times in each bucket


class LatencyWindow:
    """The samples of the last WINDOW_S, of one model. It takes at most 13 KB, whatever the load.

    `now` is a value of a monotonic clock. `figures` changes nothing, so another thread may call it.
    """

    __slots__ = ("_slices",)

    def __init__(self) -> None:
        self._slices: list[_Slice | None] = [None] * SLICES

    def add_ttft(self, ttft_s: float, now: float) -> None:
        """Add the time from sending a request to its first content."""
        ratio = max(ttft_s, MIN_S) / MIN_S
        bucket = min(int(math.log(ratio) / _LOG_GROWTH), _BUCKETS - 1)
        self._slice(now).ttft[bucket] += 1

    def add_end(self, now: float, *, is_error: bool) -> None:
        """Add an attempt whose result is known."""
        current = self._slice(now)
        current.attempt_count += 1
        current.error_count += is_error

    def add_output(self, tokens: int, seconds: float, now: float) -> None:
        """Add output, and the time that it took."""
        current = self._slice(now)
        current.output_tokens += tokens
        current.output_s += seconds

    def figures(self, now: float) -> LatencyFigures | None:
        """Return the figures of the window that ends now, or None if it has no samples. Takes about 40 µs."""
        oldest = int(now // SLICE_S) - SLICES + 1
        recent = [each for each in self._slices if each is not None and each.number >= oldest]
        attempt_count = sum(each.attempt_count for each in recent)
        ranks = list(accumulate(map(sum, zip(*(each.ttft for each in recent), strict=True))))
        if not attempt_count and not (ranks and ranks[-1]):
            return None
        output_s = sum(each.output_s for each in recent)
        output_tokens = sum(each.output_tokens for each in recent)
        return LatencyFigures(
            attempt_count,
            sum(each.error_count for each in recent),
            _quantile(ranks, 0.50),
            _quantile(ranks, 0.95),
            output_tokens / output_s if output_s else None,
        )

    def _slice(self, now: float) -> _Slice:
        """Return the current slice. It replaces the one that has left the window."""
        number = int(now // SLICE_S)
        current = self._slices[number % SLICES]
        if current is None or current.number != number:
            current = self._slices[number % SLICES] = _Slice(number)
        return current


def _quantile(ranks: list[int], quantile: float) -> float | None:
    """Return a quantile. `ranks` has the number of times in each bucket and in those before it."""
    count = ranks[-1]
    if not count:
        return None
    bucket = bisect_left(ranks, math.ceil(quantile * count))
    return float(MIN_S * GROWTH ** (bucket + 0.5))
