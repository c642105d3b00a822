"""`tokenwire-server usage`: what the streams of all tenants used and cost, as records or as sums."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tokenwire.cli.money import usd_decimal
from tokenwire.cli.table import Column, Table, write_lines
from tokenwire.cli.usage.csv_writer import CellValue, csv_on_stdout
from tokenwire.cli.usage.filters import UsageFilters
from tokenwire.cli.usage.notes import inexact_lines, period_text

from ..descriptors import print_error
from ..ledger.query import LABEL_GROUP, Cursor, SummaryTooLarge, UsageQuery, UsageSummary
from ..ledger.record import Outcome, UsageRecord
from ..ledger.store import UsageStore
from ..storage.database import Database
from .key_list import moment

PAGE_SIZE = 1000
TABLE_FIELDS = (
    "created_time",
    "stream_id",
    "tenant",
    "model",
    "outcome",
    "input_tokens",
    "output_tokens",
    "cost_usd",
)
"""The fields of a record that a table shows."""
NOT_IN_TABLES = "long_cache_write_tokens"
"""The figure of a summary that a table leaves out: it would be too wide."""


class SummaryRefused(Exception):
    """The summary has too many rows."""


@dataclass(frozen=True, slots=True)
class UsageForm:
    """What to print: sums of groups, or with `records` the records themselves."""

    group_by: tuple[str, ...] = ("tenant",)
    records: bool = False
    csv: bool = False
    json: bool = False
    limit: int | None = None
    """Most records. None: all."""


async def print_usage(
    database: Database, tenant: str | None, filters: UsageFilters, form: UsageForm
) -> None:
    """Print records or sums to stdout. `tenant` None: of all tenants.

    Raises:
        StoreUnavailable: the database cannot be used.
        SummaryRefused: the summary has too many rows.
    """
    store = UsageStore(database)
    query = UsageQuery(
        tenant=tenant,
        since=filters.since.timestamp(),
        until=None if filters.until is None else filters.until.timestamp(),
        models=filters.models,
        labels=dict(filters.labels or {}),
        outcomes=tuple(map(Outcome, filters.outcomes)),
        key_prefix=filters.key_prefix,
    )
    if form.records:
        await _print_records(store, query, form)
        return
    try:
        summaries = await store.summary(query, form.group_by)
    except SummaryTooLarge as error:
        raise SummaryRefused(str(error)) from None
    names = {group: _group_name(group) for group in form.group_by}
    fields = SUMMARY_FIELDS
    if not form.csv and not form.json:
        fields = {name: SUMMARY_FIELDS[name] for name in SUMMARY_FIELDS if name != NOT_IN_TABLES}
    rows = [
        [
            *(summary.group[group] for group in names),
            *(value_of(summary) for value_of in fields.values()),
        ]
        for summary in summaries
    ]
    _row_writer([*names.values(), *fields], form)(rows)
    if not form.csv and not form.json:
        _print_notes(summaries, filters, database.name)


async def _print_records(store: UsageStore, query: UsageQuery, form: UsageForm) -> None:
    fields = RECORD_FIELDS
    if not form.csv and not form.json:
        fields = {name: RECORD_FIELDS[name] for name in TABLE_FIELDS}
    write = _row_writer(list(fields), form)
    async for page in _pages(store, query, form.limit):
        write([[value_of(record) for value_of in fields.values()] for record in page])


async def _pages(
    store: UsageStore, query: UsageQuery, limit: int | None
) -> AsyncIterator[list[UsageRecord]]:
    """Yield at least one page, the newest records first."""
    after = None
    rest = limit
    while True:
        size = PAGE_SIZE if rest is None else min(PAGE_SIZE, rest)
        page = await store.page(query, after, size)
        yield page
        rest = None if rest is None else rest - len(page)
        if len(page) < size or rest == 0:
            return
        after = Cursor.of(page[-1])


def _row_writer(
    names: Sequence[str], form: UsageForm
) -> Callable[[Sequence[Sequence[CellValue]]], None]:
    """Return a function that writes the next rows. Headings come first."""
    if form.json:
        return lambda rows: write_lines(
            [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        )
    if form.csv:
        return csv_on_stdout(names).write
    table = Table([Column(name.upper()) for name in names])
    return lambda rows: table.write([list(map(_table_cell, row)) for row in rows])


def _print_notes(summaries: Sequence[UsageSummary], filters: UsageFilters, database: str) -> None:
    """Print on stderr why the sums are not exact, or that there are none."""
    if not summaries:
        print_error(f"no streams {period_text(filters.since, filters.until)} in {database}")
    for line in inexact_lines(
        unpriced_count=sum(summary.unpriced_count for summary in summaries),
        estimated_count=sum(summary.estimated_count for summary in summaries),
        open_count=sum(summary.open_count for summary in summaries),
    ):
        print_error(line)


def _group_name(group: str) -> str:
    return "key_prefix" if group == "key" else group.replace(LABEL_GROUP, "label.")


def _cost_usd(microusd: int | None) -> str | None:
    return None if microusd is None else usd_decimal(microusd)


def _table_cell(value: CellValue) -> str:
    return "-" if value is None else str(value)


def _time(time: float | None) -> str | None:
    return None if time is None else moment(time, "milliseconds")


SUMMARY_FIELDS: Mapping[str, Callable[[UsageSummary], CellValue]] = {
    "streams": lambda summary: summary.record_count,
    "input_tokens": lambda summary: summary.usage.input_tokens,
    "cache_read_tokens": lambda summary: summary.usage.cache_read_tokens,
    "cache_write_tokens": lambda summary: summary.usage.cache_write_tokens,
    "long_cache_write_tokens": lambda summary: summary.usage.long_cache_write_tokens,
    "output_tokens": lambda summary: summary.usage.output_tokens,
    "reasoning_tokens": lambda summary: summary.usage.reasoning_tokens,
    "cost_usd": lambda summary: _cost_usd(summary.usage.cost_microusd),
    "unpriced": lambda summary: summary.unpriced_count,
    "estimated": lambda summary: summary.estimated_count,
    "open": lambda summary: summary.open_count,
}
"""The columns after those of the groups. None: not known."""
RECORD_FIELDS: Mapping[str, Callable[[UsageRecord], Any]] = {
    "created_time": lambda record: _time(record.created_time),
    "end_time": lambda record: _time(record.end_time),
    "stream_id": lambda record: record.stream_id,
    "tenant": lambda record: record.tenant,
    "key_prefix": lambda record: record.key_prefix,
    "request_id": lambda record: record.request_id,
    "labels": lambda record: record.labels,
    "model_asked": lambda record: record.model_asked,
    "provider": lambda record: record.provider,
    "model": lambda record: record.model,
    "provider_response_id": lambda record: record.provider_response_id,
    "outcome": lambda record: str(record.outcome),
    "reason": lambda record: record.reason,
    "ttft_s": lambda record: record.ttft_s,
    "duration_s": lambda record: record.duration_s,
    "input_tokens": lambda record: record.usage.input_tokens,
    "cache_read_tokens": lambda record: record.usage.cache_read_tokens,
    "cache_write_tokens": lambda record: record.usage.cache_write_tokens,
    "long_cache_write_tokens": lambda record: record.usage.long_cache_write_tokens,
    "output_tokens": lambda record: record.usage.output_tokens,
    "reasoning_tokens": lambda record: record.usage.reasoning_tokens,
    "server_tool_counts": lambda record: dict(record.usage.server_tools),
    "service_tier": lambda record: record.usage.service_tier,
    "cost_usd": lambda record: _cost_usd(record.usage.cost_microusd),
    "estimated": lambda record: record.usage.estimated,
    "partial": lambda record: record.partial,
    "attempts": lambda record: record.attempts,
    "failed_attempts": lambda record: msgspec.to_builtins(list(record.failed_attempts)),
    "from_cache": lambda record: record.from_cache,
    "own_key": lambda record: record.own_key,
    "filters": lambda record: msgspec.to_builtins(list(record.filters)),
    "instance_id": lambda record: record.instance_id,
}
