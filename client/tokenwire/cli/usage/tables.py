"""Usage on a terminal: a table of sums with a bar for each, and records page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenwire.v1.usage_pb2 import UsageRecord, UsageSummary

from ..money import usd_text
from ..render import natural_width, print_table
from .csv_writer import outcome_text, time_text
from .filters import UsageArguments
from .text import (
    NONE,
    bar,
    cost_of,
    group_cells,
    one_line,
    served,
    sum_of,
    summary_cost_text,
    total_lines,
)

if TYPE_CHECKING:
    from rich.table import Table

MAX_BAR_COLUMNS = 40
MIN_BAR_COLUMNS = 5
"""Where less is left, there are no bars."""

_GAP = 2


def print_summaries(summaries: Sequence[UsageSummary], wanted: UsageArguments) -> None:
    """A table of the groups, each with a bar of its cost, or of its tokens where no cost is known."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    whole = sum_of(summaries)
    if summaries:
        table = _table(summaries, wanted)
        room = console.width - natural_width(table) - _GAP
        if room >= MIN_BAR_COLUMNS:
            by_cost = (cost_of(whole.usage) or 0) > 0
            sizes = [_size(summary, by_cost=by_cost) for summary in summaries]
            bars = [
                bar(size, max(sizes), min(room, MAX_BAR_COLUMNS), console.options.ascii_only)
                for size in sizes
            ]
            table = _table(summaries, wanted, bars, "BY COST" if by_cost else "BY TOKENS")
        print_table(table)
    for line in total_lines(whole, wanted):
        console.print(Text(line))


def _table(
    summaries: Sequence[UsageSummary],
    wanted: UsageArguments,
    bars: Sequence[str] = (),
    bars_heading: str = "",
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for group in wanted.group_by:
        table.add_column(Text(f"LABEL {wanted.label_key}" if group == "label" else group.upper()))
    for heading in ("STREAMS", "IN", "OUT", "COST"):
        table.add_column(heading, justify="right")
    if bars:
        table.add_column(bars_heading, style="cyan")
    for position, summary in enumerate(summaries):
        groups = map(one_line, group_cells(summary, wanted.group_by, none=NONE))
        cells = (*groups, *_sums(summary), *bars[position : position + 1])
        table.add_row(*map(Text, cells))
    return table


class RecordTable:
    """Prints records as rows of one table, as they arrive, with the streams' ids if they fit."""

    def __init__(self) -> None:
        self._begun = False
        self._with_ids = True

    def write(self, records: Sequence[UsageRecord]) -> None:
        """Print the next rows. Their columns are aligned with those of earlier rows, if they fit."""
        from rich.console import Console

        table = self._table(records)
        if not self._begun and natural_width(table) > Console().width:
            self._with_ids = False
            table = self._table(records)
        print_table(table)
        self._begun = True

    def _table(self, records: Sequence[UsageRecord]) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=None, pad_edge=False, header_style="dim", show_header=not self._begun, expand=True
        )
        table.add_column("OPENED (UTC)")
        table.add_column("MODEL", ratio=1)
        for heading, least in (("IN", 8), ("OUT", 7), ("COST", 10)):
            table.add_column(heading, min_width=least, justify="right")
        table.add_column("END", min_width=10)
        if self._with_ids:
            table.add_column("STREAM")
        for record in records:
            cells = [*_record_cells(record), *([record.stream_id] if self._with_ids else [])]
            table.add_row(*(Text(one_line(cell)) for cell in cells))
        return table


def _sums(summary: UsageSummary) -> tuple[str, ...]:
    usage = summary.usage
    mark = "~" if usage.estimated else ""
    return (
        f"{summary.record_count:,}",
        f"{mark}{usage.input_tokens:,}",
        f"{mark}{usage.output_tokens:,}",
        summary_cost_text(summary),
    )


def _record_cells(record: UsageRecord) -> tuple[str, ...]:
    usage = record.usage
    mark = "~" if usage.estimated else ""
    cost = cost_of(usage)
    return (
        time_text(record.created_time)[:19].replace("T", " "),
        served(record),
        f"{mark}{usage.input_tokens:,}",
        f"{mark}{usage.output_tokens:,}",
        usd_text(cost) if cost is None else mark + usd_text(cost),
        record.reason.lower() or outcome_text(record.outcome),
    )


def _size(summary: UsageSummary, *, by_cost: bool) -> int:
    usage = summary.usage
    return (cost_of(usage) or 0) if by_cost else usage.input_tokens + usage.output_tokens
