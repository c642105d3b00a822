"""`tokenwire usage`: what the tenant's streams used, and what that cost."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from tokenwire.v1.usage_pb2 import UsageRecord, UsageSummary

from ...client import AsyncClient
from ...errors import TokenwireError
from ...usage import PAGE_SIZE
from ..app import Arguments
from ..render import json_text, say, visible
from ..usage.csv_writer import CsvWriter, record_columns, summary_columns
from ..usage.filters import UsageArguments
from ..usage.json_numbers import json_object
from ..usage.tables import RecordTable, print_summaries
from ..usage.text import one_line, period_text, record_row, sum_of, summary_row, total_lines
from .client_for import client_for

RECORDS_AT_ONCE = 100
"""Written together: a reader of a pipe waits for no more than these."""


async def usage(arguments: Arguments) -> None:
    """Print sums, or records as they come: for people on a terminal, tab-separated lines elsewhere.

    However many records there are, one page of them is held in memory. An error in the middle says how
    many were written.

    Raises:
        TokenwireError: the server did not tell, or not all.
    """
    wanted = arguments.usage
    if wanted is None:
        raise ValueError("these are not the arguments of usage")
    async with client_for(arguments) as client:
        if wanted.group_by:
            summaries = await client.usage_summary(
                group_by=wanted.group_by,
                label_key=wanted.label_key,
                timeout=arguments.timeout_s,
                **wanted.fields(),
            )
            _write_summaries(summaries, wanted, as_json=arguments.json)
        else:
            await _write_records(client, arguments, wanted)
    sys.stdout.flush()


def _write_summaries(
    summaries: Sequence[UsageSummary], wanted: UsageArguments, *, as_json: bool
) -> None:
    if as_json:
        _write_json(summaries)
    elif wanted.csv:
        _csv_writer(summary_columns(wanted.group_by, wanted.label_key)).write(summaries)
    elif sys.stdout.isatty():
        print_summaries(summaries, wanted)
    else:
        _write_lines(summary_row(summary, wanted.group_by) for summary in summaries)
        for line in total_lines(sum_of(summaries), wanted):
            say(line)


async def _write_records(client: AsyncClient, arguments: Arguments, wanted: UsageArguments) -> None:
    limit = wanted.limit
    write = _record_writer(wanted, as_json=arguments.json)
    records = client.usage_records(
        page_size=PAGE_SIZE if limit is None else min(limit, PAGE_SIZE),
        timeout=arguments.timeout_s,
        **wanted.fields(),
    )
    count = 0
    try:
        async for batch in _batches(records, limit):
            write(batch)
            sys.stdout.flush()
            count += len(batch)
    except TokenwireError:
        if count:
            say(f"tokenwire: incomplete: {count} records were written before this:")
        raise
    if wanted.csv and not count:
        write(())  # its heading
    elif not count and not arguments.json:
        say(f"no streams {period_text(wanted.since, wanted.until)}")


def _record_writer(
    wanted: UsageArguments, *, as_json: bool
) -> Callable[[Sequence[UsageRecord]], None]:
    if as_json:
        return _write_json
    if wanted.csv:
        return _csv_writer(record_columns()).write
    if sys.stdout.isatty():
        return RecordTable().write
    return lambda records: _write_lines(map(record_row, records))


async def _batches(
    records: AsyncIterator[UsageRecord], limit: int | None
) -> AsyncIterator[list[UsageRecord]]:
    """A few records at a time, all in all no more than the limit."""
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


def _csv_writer(columns: dict[str, Callable[..., str]]) -> CsvWriter:
    # RFC 4180 ends lines itself, and whoever reads a file later does not know our locale.
    sys.stdout.reconfigure(encoding="utf-8", errors="replace", newline="")  # type: ignore[union-attr]
    return CsvWriter(_VisibleStdout() if sys.stdout.isatty() else sys.stdout, columns)


class _VisibleStdout:
    """A terminal, which texts of others must not command."""

    def write(self, text: str, /) -> None:
        sys.stdout.write(visible(text))


def _write_json(messages: Iterable[UsageRecord | UsageSummary]) -> None:
    sys.stdout.writelines(json_text(json_object(message)) + "\n" for message in messages)


def _write_lines(rows: Iterable[Sequence[str]]) -> None:
    sys.stdout.writelines("\t".join(one_line(cell) for cell in row) + "\n" for row in rows)
