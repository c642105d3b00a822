"""Sentences about usage that both usage commands print."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime


def period_text(since: datetime, until: datetime | None) -> str:
    """Return a period, such as `since 2026-07-01 until 2026-08-01 (UTC)`."""
    end = "" if until is None else f" until {_moment_text(until)}"
    return f"since {_moment_text(since)}{end} (UTC)"


def inexact_lines(*, unpriced_count: int, estimated_count: int, open_count: int) -> Iterator[str]:
    """Return a line for each reason why a sum is not exact."""
    if unpriced_count:
        yield f"{unpriced_count:,} without a known price: their cost is not in the sum"
    if estimated_count:
        yield f"{estimated_count:,} with figures that Tokenwire counted or estimated, not the provider's"
    if open_count:
        yield f"{open_count:,} still open: their figures will grow"


def _moment_text(time: datetime) -> str:
    is_midnight = not (time.hour or time.minute or time.second or time.microsecond)
    return f"{time:%Y-%m-%d}" if is_midnight else f"{time:%Y-%m-%d %H:%M}"
