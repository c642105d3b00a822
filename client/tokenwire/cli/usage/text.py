"""What is said of usage, for people: sums in words, records in cells. Pure text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from tokenwire.v1.usage_pb2 import Usage, UsageRecord, UsageSummary

from ..money import UNKNOWN, usd_decimal, usd_text
from ..render import visible
from .csv_writer import outcome_text, time_text
from .filters import UsageArguments

NONE = "(none)"
"""What stands for a label or a key that records do not have."""

_ON_ONE_LINE = str.maketrans("\t\n\r", "   ")
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def sum_of(summaries: Sequence[UsageSummary]) -> UsageSummary:
    """What groups that have no record in common come to."""
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


def total_lines(whole: UsageSummary, wanted: UsageArguments) -> Iterator[str]:
    """The sum of everything in words, then a line for each thing to be known of it."""
    period = period_text(wanted.since, wanted.until)
    if not whole.record_count:
        yield f"no streams {period}"
        return
    usage, cost = whole.usage, cost_of(whole.usage)
    streams = "1 stream" if whole.record_count == 1 else f"{whole.record_count:,} streams"
    yield (
        f"{period}: {streams}, {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, "
        f"{'cost ' if cost is None else ''}{usd_text(cost)}"
    )
    if count := whole.unpriced_count:
        yield f"{count:,} without a known price: what they cost is not in the sum"
    if count := whole.estimated_count:
        yield f"{count:,} with figures that are not the provider's, but counted or estimated here"
    if count := whole.open_count:
        yield f"{count:,} still open: their figures will grow"


def period_text(since: datetime, until: datetime | None) -> str:
    """`since 2026-07-01 until 2026-08-01 (UTC)`."""
    end = "" if until is None else f" until {_moment_text(until)}"
    return f"since {_moment_text(since)}{end} (UTC)"


def one_line(text: str) -> str:
    """Text as a cell of a line, which commands no terminal."""
    return visible(text.translate(_ON_ONE_LINE))


def cost_of(usage: Usage) -> int | None:
    """Millionths of a US dollar. None: not known."""
    return usage.cost_microusd if usage.HasField("cost_microusd") else None


def summary_cost_text(summary: UsageSummary) -> str:
    """The cost of a group; what is missing in it, and what is estimated, is marked."""
    cost = cost_of(summary.usage)
    if cost is None:
        return UNKNOWN
    mark = "~" if summary.usage.estimated else ""
    return f"{mark}{usd_text(cost)}{' + ?' if summary.unpriced_count else ''}"


def group_cells(
    summary: UsageSummary, group_by: Sequence[str], *, none: str = ""
) -> tuple[str, ...]:
    """What the records of a group have in common."""
    cells = {
        "day": summary.day,
        "model": summary.model,
        "label": summary.label_value or none,
        "key": summary.key_prefix or none,
    }
    return tuple(cells[group] for group in group_by)


def summary_row(summary: UsageSummary, group_by: Sequence[str]) -> tuple[str, ...]:
    """A group for programs: tokens, the exact cost in US dollars (empty: unknown), how many lack one."""
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
    """A record for programs, as far as it fits into a line that people read too."""
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
    """The model that served, or else the one that was asked for."""
    return f"{record.provider}/{record.model}" if record.provider else record.model_asked


def end_text(record: UsageRecord) -> str:
    """`finished: stop`, `failed: upstream_broken`, `cancelled`, `open`."""
    outcome, reason = outcome_text(record.outcome), record.reason.lower()
    return outcome if reason in ("", outcome) else f"{outcome}: {reason}"


def bar(value: int, most: int, width: int, ascii_only: bool = False) -> str:
    """A bar as long as the value is large: `width` for `most`; anything above 0 is seen."""
    if value <= 0 or most <= 0:
        return ""
    if ascii_only:
        return "#" * max(1, value * width // most)
    full, eighth = divmod(max(1, value * width * 8 // most), 8)
    return _EIGHTHS[8] * full + (_EIGHTHS[eighth] if eighth else "")


def _cost_cell(usage: Usage) -> str:
    cost = cost_of(usage)
    return "" if cost is None else usd_decimal(cost)


def _moment_text(time: datetime) -> str:
    whole_day = not (time.hour or time.minute or time.second or time.microsecond)
    return f"{time:%Y-%m-%d}" if whole_day else f"{time:%Y-%m-%d %H:%M}"
