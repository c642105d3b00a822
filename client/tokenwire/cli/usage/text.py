"""Usage as text: sums in words, and records as cells. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenwire.v1.usage_pb2 import Usage, UsageRecord, UsageSummary

from ..money import UNKNOWN, usd_decimal, usd_text
from .columns import outcome_text, time_text
from .filters import UsageFilters
from .notes import inexact_lines, period_text

NONE = "(none)"
"""Shown instead of a label or a key that the records do not have."""

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def sum_of(summaries: Sequence[UsageSummary]) -> UsageSummary:
    """Return the sum of groups that have no record in common."""
    whole = UsageSummary()
    for summary in summaries:
        whole.record_count += summary.record_count
        whole.unpriced_count += summary.unpriced_count
        whole.estimated_count += summary.estimated_count
        whole.open_count += summary.open_count
        whole.usage.input_tokens += summary.usage.input_tokens
        whole.usage.output_tokens += summary.usage.output_tokens
        if summary.usage.HasField("cost_microusd"):
            whole.usage.cost_microusd += summary.usage.cost_microusd
    whole.usage.estimated = whole.estimated_count > 0
    return whole


def total_lines(whole: UsageSummary, filters: UsageFilters) -> Iterator[str]:
    """Return the sum in words, then a line for each reason why it is not exact."""
    period = period_text(filters.since, filters.until)
    if not whole.record_count:
        yield f"no streams {period}"
        return
    usage, cost = whole.usage, cost_of(whole.usage)
    streams = "1 stream" if whole.record_count == 1 else f"{whole.record_count:,} streams"
    yield (
        f"{period}: {streams}, {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, "
        f"{'cost ' if cost is None else ''}{usd_text(cost)}"
    )
    yield from inexact_lines(
        unpriced_count=whole.unpriced_count,
        estimated_count=whole.estimated_count,
        open_count=whole.open_count,
    )


def cost_of(usage: Usage) -> int | None:
    """Return the cost in millionths of a US dollar. None: not known."""
    return usage.cost_microusd if usage.HasField("cost_microusd") else None


def summary_cost_text(summary: UsageSummary) -> str:
    """Return the cost of a group, marked if it is estimated (~) or incomplete (+ ?)."""
    cost = cost_of(summary.usage)
    if cost is None:
        return UNKNOWN
    mark = "~" if summary.usage.estimated else ""
    return f"{mark}{usd_text(cost)}{' + ?' if summary.unpriced_count else ''}"


def group_cells(
    summary: UsageSummary, group_by: Sequence[str], *, none: str = ""
) -> tuple[str, ...]:
    """Return what the records of a group have in common."""
    cells = {
        "day": summary.day,
        "model": summary.model,
        "label": summary.label_value or none,
        "key": summary.key_prefix or none,
    }
    return tuple(cells[group] for group in group_by)


def summary_row(summary: UsageSummary, group_by: Sequence[str]) -> tuple[str, ...]:
    """Return a group for programs: tokens, exact cost in US dollars (empty: unknown), unpriced records."""
    usage = summary.usage
    return (
        *group_cells(summary, group_by),
        str(summary.record_count),
        str(usage.input_tokens),
        str(usage.output_tokens),
        _cost_cell(usage),
        str(summary.unpriced_count),
    )


def record_row(record: UsageRecord) -> tuple[str, ...]:
    """Return the main fields of a record, for programs and people."""
    return (
        time_text(record.created_time),
        record.stream_id,
        served(record),
        str(record.usage.input_tokens),
        str(record.usage.output_tokens),
        _cost_cell(record.usage),
        end_text(record),
    )


def served(record: UsageRecord) -> str:
    """Return the model that answered, or the requested one if none did."""
    return f"{record.provider}/{record.model}" if record.provider else record.model_asked


def end_text(record: UsageRecord) -> str:
    """Return how a stream ended, such as `finished: stop`, `cancelled` or `open`."""
    outcome, reason = outcome_text(record.outcome), record.reason.lower()
    return outcome if reason in ("", outcome) else f"{outcome}: {reason}"


def bar(value: int, most: int, width: int, ascii_only: bool = False) -> str:
    """Return a bar whose length is proportional to `value`: `width` for `most`, never empty above 0."""
    if value <= 0 or most <= 0:
        return ""
    if ascii_only:
        return "#" * max(1, value * width // most)
    full, eighth = divmod(max(1, value * width * 8 // most), 8)
    return _EIGHTHS[8] * full + (_EIGHTHS[eighth] if eighth else "")


def _cost_cell(usage: Usage) -> str:
    cost = cost_of(usage)
    return "" if cost is None else usd_decimal(cost)
