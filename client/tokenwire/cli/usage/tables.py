"""Usage on a terminal: a table of sums with a bar for each, and records page by page."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from tokenwire.v1.usage_pb2 import UsageRecord, UsageSummary

from ..money import usd_text
from ..table import GAP, Column, Table, dim, table_lines, write_lines
from .columns import outcome_text, time_text
from .filters import UsageFilters
from .text import (
    NONE,
    bar,
    cost_of,
    group_cells,
    served,
    sum_of,
    summary_cost_text,
    total_lines,
)

MAX_BAR_WIDTH = 40
MIN_BAR_WIDTH = 5
"""If less space is left, there are no bars."""

_SUM_COLUMNS = tuple(Column(heading, right=True) for heading in ("STREAMS", "IN", "OUT", "COST"))

_RECORD_COLUMNS = (
    Column("OPENED (UTC)"),
    Column("MODEL", min_width=12),
    Column("IN", right=True, min_width=8),
    Column("OUT", right=True, min_width=7),
    Column("COST", right=True, min_width=10),
    Column("END", min_width=10),
)
_ID_HEADING = "STREAM"


def terminal_width() -> int:
    """Return the width of the terminal in cells."""
    return shutil.get_terminal_size().columns


def print_summaries(
    summaries: Sequence[UsageSummary],
    filters: UsageFilters,
    group_by: Sequence[str],
    label_key: str,
) -> None:
    """Print a table of the groups, with a bar for the cost of each, or its tokens if no cost is known."""
    whole = sum_of(summaries)
    if summaries:
        headings = (
            f"LABEL {label_key}" if group == "label" else group.upper() for group in group_by
        )
        columns = [*map(Column, headings), *_SUM_COLUMNS]
        rows = [
            [*group_cells(summary, group_by, none=NONE), *_sums(summary)] for summary in summaries
        ]
        measured = Table(columns)
        measured.fit(rows)
        room = terminal_width() - measured.width - len(GAP)
        if room >= MIN_BAR_WIDTH:
            by_cost = (cost_of(whole.usage) or 0) > 0
            columns.append(Column("BY COST" if by_cost else "BY TOKENS"))
            sizes = [_size(summary, by_cost=by_cost) for summary in summaries]
            ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
            for row, size in zip(rows, sizes, strict=True):
                row.append(bar(size, max(sizes), min(room, MAX_BAR_WIDTH), ascii_only))
        write_lines(table_lines(columns, rows))
    write_lines(list(total_lines(whole, filters)))


class RecordTable:
    """Prints records as rows of one table, as they arrive.

    If the streams' ids do not fit beside the other columns, they are on lines of their own.
    """

    def __init__(self) -> None:
        self._table: Table | None = None
        self._ids_are_beside = True

    def write(self, records: Sequence[UsageRecord]) -> None:
        """Print the next rows. Their columns are aligned with those of earlier rows, if they fit."""
        rows = [_record_cells(record) for record in records]
        ids = [record.stream_id for record in records]
        is_first = self._table is None
        if self._table is None:
            self._table = Table((*_RECORD_COLUMNS, Column(_ID_HEADING)))
            self._table.fit([(*row, id) for row, id in zip(rows, ids, strict=True)])
            if self._table.width > terminal_width():
                self._ids_are_beside = False
                self._table = Table(_RECORD_COLUMNS)
        if self._ids_are_beside:
            rows = [(*row, id) for row, id in zip(rows, ids, strict=True)]
        lines = [self._table.line(row) for row in self._table.fit(rows)]
        if not self._ids_are_beside:
            lines = [line for row, id in zip(lines, ids, strict=True) for line in (row, GAP + id)]
        if is_first:
            below = () if self._ids_are_beside else (GAP + _ID_HEADING,)
            lines = [*map(dim, (self._table.heading(), *below)), *lines]
        write_lines(lines)


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
