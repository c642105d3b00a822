"""`tokenwire usage`: what the tenant's streams used, and what they cost."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from tokenwire.v1.usage_pb2 import UsageRecord, UsageSummary

from ...aio.client import AsyncClient
from ...errors import TokenwireError
from ...wire.usage import PAGE_SIZE
from ..connection import Connection
from ..proto_json import json_line
from ..table import write_lines
from ..terminal import one_line, say
from ..usage.columns import Columns, cells, record_columns, summary_columns
from ..usage.csv_writer import csv_on_stdout
from ..usage.filters import LABEL_GROUP, Groups, UsageFilters
from ..usage.notes import period_text
from ..usage.tables import RecordTable, print_summaries
from ..usage.text import record_row, sum_of, summary_row, total_lines

if TYPE_CHECKING:
    from ...wire.usage import UsageFields, UsageGroupName

GROUPS: tuple[UsageGroupName, ...] = ("day", "model", "label", "key")
"""In the order in which the server sorts by them."""

RECORDS_AT_ONCE = 100
"""Records that are written together. The reader of a pipe waits for at most these."""


@dataclass(frozen=True, slots=True)
class UsageForm:
    """What to print: groups of records and their sums, or the records themselves."""

    group_by: tuple[UsageGroupName, ...] = ()
    """Empty: the records themselves."""
    label_key: str = ""
    csv: bool = False
    json: bool = False
    limit: int | None = None
    """Most records. None: all."""


def summary_groups(groups: Groups) -> tuple[tuple[UsageGroupName, ...], str]:
    """Return the groups in the server's order, and the key of the label among them."""
    labels = [name for name in groups.names if name.startswith(LABEL_GROUP)]
    names = {"label" if name in labels else name for name in groups.names}
    key = labels[0].removeprefix(LABEL_GROUP) if labels else ""
    return tuple(group for group in GROUPS if group in names), key


async def usage(
    connection: Connection, filters: UsageFilters, form: UsageForm, *, timeout_s: float
) -> None:
    """Print sums, or records as they arrive: for people on a terminal, tab-separated lines elsewhere.

    Memory holds one page of records at a time. An error in the middle names how many were written.

    Raises:
        TokenwireError: the server did not answer, or its answer broke off.
    """
    async with connection.client() as client:
        if form.group_by:
            summaries = await client.usage_summary(
                group_by=form.group_by,
                label_key=form.label_key,
                timeout=timeout_s,
                **_fields(filters),
            )
            _write_summaries(summaries, filters, form)
        else:
            await _write_records(client, filters, form, timeout_s)
    sys.stdout.flush()


def _fields(filters: UsageFilters) -> UsageFields:
    """Return the filters as the client's arguments."""
    fields = {
        "since": filters.since,
        "until": filters.until,
        "models": filters.models,
        "labels": filters.labels or {},
        "outcomes": filters.outcomes,
        "key_prefix": filters.key_prefix or "",
    }
    return cast("UsageFields", fields)


def _write_summaries(
    summaries: Sequence[UsageSummary], filters: UsageFilters, form: UsageForm
) -> None:
    if form.json:
        _write_json(summaries)
    elif form.csv:
        _csv_writer(summary_columns(form.group_by, form.label_key))(summaries)
    elif sys.stdout.isatty():
        print_summaries(summaries, filters, form.group_by, form.label_key)
    else:
        _write_rows(summary_row(summary, form.group_by) for summary in summaries)
        for line in total_lines(sum_of(summaries), filters):
            say(line)


async def _write_records(
    client: AsyncClient, filters: UsageFilters, form: UsageForm, timeout_s: float
) -> None:
    limit = form.limit
    write = _record_writer(form)
    records = client.usage_records(
        page_size=PAGE_SIZE if limit is None else min(limit, PAGE_SIZE),
        timeout=timeout_s,
        **_fields(filters),
    )
    count = 0
    try:
        async for batch in _batches(records, limit):
            write(batch)
            sys.stdout.flush()
            count += len(batch)
    except TokenwireError:
        if count:
            say(f"tokenwire: incomplete: {count} records were written before this error:")
        raise
    if form.csv and not count:
        write(())  # the headings
    elif not count and not form.json:
        say(f"no streams {period_text(filters.since, filters.until)}")


def _record_writer(form: UsageForm) -> Callable[[Sequence[UsageRecord]], None]:
    if form.json:
        return _write_json
    if form.csv:
        return _csv_writer(record_columns())
    if sys.stdout.isatty():
        return RecordTable().write
    return lambda records: _write_rows(map(record_row, records))


async def _batches(
    records: AsyncIterator[UsageRecord], limit: int | None
) -> AsyncIterator[list[UsageRecord]]:
    """Yield a few records at a time, in total no more than the limit."""
    batch: list[UsageRecord] = []
    count = 0
    async for record in records:
        batch.append(record)
        count += 1
        if count == limit:
            break
        if len(batch) == RECORDS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _csv_writer(columns: Columns) -> Callable[[Sequence[UsageRecord | UsageSummary]], None]:
    writer = csv_on_stdout(tuple(columns))
    return lambda messages: writer.write(cells(columns, message) for message in messages)


def _write_json(messages: Iterable[UsageRecord | UsageSummary]) -> None:
    write_lines([json_line(message, with_zeros=True) for message in messages])


def _write_rows(rows: Iterable[Sequence[str]]) -> None:
    write_lines(["\t".join(map(one_line, row)) for row in rows])
