"""What streams used and cost, for the operator: every tenant's records, and sums of them."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ..ledger.query import LABEL_GROUP, Cursor, SummaryTooLarge, UsageQuery, UsageSummary
from ..ledger.record import Outcome, UsageRecord
from ..ledger.store import UsageStore
from ..storage.database import Database
from .listing import columns, moment

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
"""Of a record, where it has to fit into a line."""
_VISIBLE = (
    {code: chr(0x2400 + code) for code in range(0x20)}
    | {0x7F: "\u2421"}
    | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
)


class TooMuch(Exception):
    """What was asked for does not fit into an answer."""


async def tell_usage(arguments: argparse.Namespace, database: Database) -> None:
    """Write what was asked for to stdout, as it comes. Raises StoreUnavailable, TooMuch."""
    store = UsageStore(database)
    query = UsageQuery(
        tenant=arguments.tenant,
        since=arguments.since,
        until=arguments.until,
        models=tuple(arguments.model),
        labels=dict(arguments.label),
        outcomes=tuple(Outcome(outcome) for outcome in arguments.outcome),
        key_prefix=arguments.key,
    )
    if arguments.records:
        await _tell_records(arguments, store, query)
        return
    try:
        summaries = await store.summary(query, arguments.by)
    except SummaryTooLarge as error:
        raise TooMuch(str(error)) from None
    names = {group: _group_name(group) for group in arguments.by}
    rows = [
        [summary.group[group] for group in names]
        + [value_of(summary) for value_of in SUMMARY_FIELDS.values()]
        for summary in summaries
    ]
    _write(arguments, [*names.values(), *SUMMARY_FIELDS], rows)
    if not arguments.csv and not arguments.json:
        _remark(summaries, database.name)


async def _tell_records(
    arguments: argparse.Namespace, store: UsageStore, query: UsageQuery
) -> None:
    fields = RECORD_FIELDS
    if not arguments.csv and not arguments.json:
        fields = {name: RECORD_FIELDS[name] for name in TABLE_FIELDS}
    header = True
    async for page in _pages(store, query):
        rows = [[value_of(record) for value_of in fields.values()] for record in page]
        _write(arguments, list(fields), rows, header=header)
        header = False


async def _pages(store: UsageStore, query: UsageQuery) -> AsyncIterator[list[UsageRecord]]:
    """At least one page, the newest records first."""
    after = None
    while True:
        page = await store.page(query, after, PAGE_SIZE)
        yield page
        if len(page) < PAGE_SIZE:
            return
        after = Cursor.of(page[-1])


def _write(
    arguments: argparse.Namespace,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    header: bool = True,
) -> None:
    if arguments.json:
        lines = (json.dumps(dict(zip(names, row, strict=True))) for row in rows)
        sys.stdout.writelines(f"{line}\n" for line in lines)
    elif arguments.csv:
        writer = csv.writer(sys.stdout, lineterminator="\r\n")
        if header:
            writer.writerow(names)
        writer.writerows([_csv_cell(value) for value in row] for row in rows)
    elif rows:
        table = [[name.upper() for name in names]] if header else []
        table += [[_table_cell(value) for value in row] for row in rows]
        sys.stdout.writelines(f"{line}\n" for line in columns(table))


def _remark(summaries: Sequence[UsageSummary], database: str) -> None:
    """Say on stderr what the sums do not."""
    if not summaries:
        print(f"no streams are recorded for that in {database}", file=sys.stderr)
    for what, count in (
        ("are without a known price, and not in the sum", sum(s.unpriced_count for s in summaries)),
        ("are counted here and not by their provider", sum(s.estimated_count for s in summaries)),
        ("are still open", sum(s.open_count for s in summaries)),
    ):
        if count:
            print(f"{count} of the streams {what}", file=sys.stderr)


def _group_name(group: str) -> str:
    return "key_prefix" if group == "key" else group.replace(LABEL_GROUP, "label.")


def usd(microusd: int | None) -> str | None:
    """Exact US dollars. None: not known."""
    return None if microusd is None else f"{microusd // 10**6}.{microusd % 10**6:06d}"


def _table_cell(value: object) -> str:
    """A cell that stays on its line and commands no terminal: callers choose labels, providers names."""
    return "-" if value is None else str(value).translate(_VISIBLE)


def _csv_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: callers choose labels and names."""
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return f"'{value}"
    return value


def _time(time: float | None) -> str | None:
    return None if time is None else moment(time, "milliseconds")


SUMMARY_FIELDS: dict[str, Callable[[UsageSummary], Any]] = {
    "streams": lambda summary: summary.record_count,
    "input_tokens": lambda summary: summary.usage.input_tokens,
    "cache_read_tokens": lambda summary: summary.usage.cache_read_tokens,
    "cache_write_tokens": lambda summary: summary.usage.cache_write_tokens,
    "output_tokens": lambda summary: summary.usage.output_tokens,
    "reasoning_tokens": lambda summary: summary.usage.reasoning_tokens,
    "cost_usd": lambda summary: usd(summary.usage.cost_microusd),
    "unpriced": lambda summary: summary.unpriced_count,
    "estimated": lambda summary: summary.estimated_count,
    "open": lambda summary: summary.open_count,
}
"""Beside what records are grouped by. None: not known."""
RECORD_FIELDS: dict[str, Callable[[UsageRecord], Any]] = {
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
    "output_tokens": lambda record: record.usage.output_tokens,
    "reasoning_tokens": lambda record: record.usage.reasoning_tokens,
    "cost_usd": lambda record: usd(record.usage.cost_microusd),
    "estimated": lambda record: record.usage.estimated,
    "partial": lambda record: record.partial,
    "attempts": lambda record: record.attempts,
    "from_cache": lambda record: record.from_cache,
    "instance_id": lambda record: record.instance_id,
}
