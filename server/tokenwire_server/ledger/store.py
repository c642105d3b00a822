"""Where usage records are kept, and every way to ask for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnCollection,
    ColumnElement,
    Insert,
    RowMapping,
    Update,
    case,
    delete,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ..events import Usage
from ..storage.database import Database
from ..storage.schema import usage_records
from ..storage.sql import DatabaseTime
from .instances import Instances
from .query import LABEL_GROUP, Cursor, SummaryTooLarge, UsageQuery, UsageSummary
from .query_slots import QuerySlots
from .record import Outcome, UsageRecord
from .rows import COUNTS, DAY_S, RECORD_COLUMNS, label_name, record_of, row_of, text_of
from .writes import ROWS, as_json, keep_statement, renew_statement

MAX_SUMMARY_ROWS = 10_000
ROWS_AT_ONCE = 25
"""Rows that are built for one statement, or read at once. This blocks the event loop for 1 ms."""
FIGURES_AT_ONCE = 200
"""The same for rows whose figures are updated."""

_column = usage_records.c
_MODEL_SERVED = _column.provider + "/" + _column.model
_SUMMED = (*COUNTS, "outcome", "estimated", "created_time")
_GROUPS = {
    "day": _column.created_day,
    "model": case((_column.provider != "", _MODEL_SERVED), else_=_column.model_asked),
    "tenant": _column.tenant,
    "key": _column.key_prefix,
}


class UsageStore:
    """The usage records in the database.

    Every method raises StoreUnavailable. One that writes was then, as when it is cancelled, done whole or
    not at all, and may be done again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = QuerySlots()
        self._statements: tuple[Insert, Update] | None = None  # made once: that takes 1 ms
        self.instances = Instances(database)

    async def write(
        self, records: Sequence[UsageRecord], figures: Sequence[UsageRecord] = ()
    ) -> None:
        """Keep records, each stream's at most once in a call.

        A record that is closed never changes again. One that is open, or was closed as LOST, becomes what
        its process says of it last: written by one task, in order, it never goes back.

        `figures`: more records, which are open, and of which there are rows: a quarter of the work.
        """
        async with self._database.writing() as connection:
            if self._statements is None:
                self._statements = keep_statement(connection), renew_statement(connection)
            keep, renew = self._statements
            for first in range(0, len(figures), FIGURES_AT_ONCE):
                some = figures[first : first + FIGURES_AT_ONCE]
                renewed = await connection.execute(renew, {ROWS: as_json(some)})
                if renewed.rowcount < len(some):  # somebody took rows away, or took them for LOST
                    records = [*records, *some]
            for first in range(0, len(records), ROWS_AT_ONCE):
                rows = [row_of(record) for record in records[first : first + ROWS_AT_ONCE]]
                await connection.execute(keep, rows)

    async def page(
        self, query: UsageQuery, after: Cursor | None = None, size: int = 100
    ) -> list[UsageRecord]:
        """Return the newest records, or those that follow a page's last one; at most `size`.

        Raises RateLimited and Overloaded like `QuerySlots.slot`.
        """
        records = select(*RECORD_COLUMNS).where(*_conditions(query))
        if after is not None:
            at = tuple_(_column.created_time, _column.stream_id)
            records = records.where(at < tuple_(after.created_time, text_of(after.stream_id)))
        newest_first = records.order_by(
            _column.created_time.desc(), _column.stream_id.desc()
        ).limit(size)
        async with self._querying(query.tenant) as connection:
            rows = (await connection.stream(newest_first)).mappings().partitions(ROWS_AT_ONCE)
            return [record_of(dict(row)) async for some in rows for row in some]

    async def summary(self, query: UsageQuery, group_by: Sequence[str] = ()) -> list[UsageSummary]:
        """Sums, by groups among "day", "model", "tenant", "key" and "label:KEY", and in their order. A
        label that a record does not have is taken for an empty one.

        Without groups there is one, of all; without records there is none.

        Raises SummaryTooLarge, ValueError for an unknown group, and RateLimited and Overloaded like
        `QuerySlots.slot`.
        """
        names = [f"group_{n}" for n in range(len(group_by))]
        groups = [_group(group).label(name) for name, group in zip(names, group_by, strict=True)]
        # A query inside: the groups' parameters are told apart by PostgreSQL, were they to stand twice.
        matching = (
            select(*groups, *(_column[name] for name in _SUMMED))
            .where(*_conditions(query))
            .subquery()
        ).c
        sums = (
            select(*(matching[name] for name in names), *_sums(matching))
            .group_by(*(matching[name] for name in names))
            .order_by(*(matching[name] for name in names))
            .limit(MAX_SUMMARY_ROWS + 1)
        )
        async with self._querying(query.tenant) as connection:
            rows = (await connection.stream(sums)).mappings().partitions(ROWS_AT_ONCE)
            found = [
                _summary(row, group_by)
                async for some in rows
                for row in some
                if row["record_count"]
            ]
        if len(found) > MAX_SUMMARY_ROWS:
            raise SummaryTooLarge(MAX_SUMMARY_ROWS)
        return found

    async def spent_since(self, time: float, longest_stream_s: float) -> dict[str, int]:
        """What the streams cost that ended since then, in microusd by tenant; open ones count with what
        they used so far, those without a known price not at all.

        Only those are looked at that were created `longest_stream_s` before then, or later.
        """
        sums = (
            select(_column.tenant, func.sum(_column.cost_microusd))
            .where(
                _column.created_time >= time - longest_stream_s,
                or_(_column.end_time.is_(None), _column.end_time >= time),
                _column.cost_microusd > 0,
            )
            .group_by(_column.tenant)
        )
        async with self._database.reading() as connection:
            rows = await connection.execute(sums)
            return {tenant: int(spent) for tenant, spent in rows}

    async def database_time(self) -> float:
        """Return the time of the database's clock, in seconds since the epoch."""
        async with self._database.reading() as connection:
            time: float = (await connection.execute(select(DatabaseTime()))).scalar_one()
            return time

    async def newest_time(self, before: float) -> float | None:
        """Return when the newest stream before a time was created, or None if there is no such record."""
        newest = select(func.max(_column.created_time)).where(_column.created_time < before)
        async with self._database.reading() as connection:
            time: float | None = (await connection.execute(newest)).scalar_one()
            return time

    async def delete_before(self, time: float, batch: int = 1000) -> int:
        """Delete closed records that were created and last written before then, oldest first; return how
        many, at most `batch`.

        `created_time` comes from the clock of the process that ran the stream, `update_time` from the
        database's clock. So records of a process whose clock is slow are kept as long as any other.
        """
        oldest = (
            select(_column.stream_id)
            .where(
                _column.created_time < time,
                _column.update_time < time,
                _column.outcome != Outcome.OPEN.value,
            )
            .order_by(_column.created_time, _column.stream_id)
            .limit(batch)
            .with_for_update(skip_locked=True)
        )
        async with self._database.writing() as connection:
            deleted = await connection.execute(
                delete(usage_records).where(_column.stream_id.in_(oldest))
            )
        return deleted.rowcount

    @asynccontextmanager
    async def _querying(self, tenant: str | None) -> AsyncIterator[AsyncConnection]:
        """Begin the transaction of a query, in one of the slots: queries may be slow and many."""
        async with self._queries.slot(tenant), self._database.reading() as connection:
            yield connection


def _conditions(query: UsageQuery) -> Iterator[ColumnElement[bool]]:
    if query.tenant is not None:
        yield _column.tenant == text_of(query.tenant)
    if query.since is not None:
        yield _column.created_time >= query.since
    if query.until is not None:
        yield _column.created_time < query.until
    if query.key_prefix is not None:
        yield _column.key_prefix == text_of(query.key_prefix)
    if query.outcomes:
        yield _column.outcome.in_([outcome.value for outcome in query.outcomes])
    if query.models:
        models = [text_of(model) for model in query.models]
        yield or_(_column.model_asked.in_(models), _MODEL_SERVED.in_(models))
    for key, value in query.labels.items():
        yield _label(key) == text_of(value)


def _label(key: str) -> ColumnElement[str]:
    label: ColumnElement[str] = _column.labels[label_name(key)].as_string()
    return label


def _group(group: str) -> ColumnElement[Any]:
    if group.startswith(LABEL_GROUP):
        return func.coalesce(_label(group.removeprefix(LABEL_GROUP)), "")
    if group not in _GROUPS:
        raise ValueError(f"records cannot be grouped by {group!r}")
    return _GROUPS[group]


def _sums(matching: ColumnCollection[str, Any]) -> Iterator[ColumnElement[Any]]:
    yield func.count().label("record_count")
    yield func.sum(case((matching["outcome"] == Outcome.OPEN.value, 1), else_=0)).label(
        "open_count"
    )
    yield func.sum(case((matching["estimated"], 1), else_=0)).label("estimated_count")
    yield (func.count() - func.count(matching["cost_microusd"])).label("unpriced_count")
    for name in COUNTS:
        yield func.sum(matching[name]).label(name)
    yield func.min(matching["created_time"]).label("first_created_time")
    yield func.max(matching["created_time"]).label("last_created_time")


def _summary(row: RowMapping, group_by: Sequence[str]) -> UsageSummary:
    found = ((group, row[f"group_{n}"]) for n, group in enumerate(group_by))
    # PostgreSQL adds up 64 bits to a Decimal.
    sums: dict[str, Any] = {name: None if row[name] is None else int(row[name]) for name in COUNTS}
    return UsageSummary(
        group={group: _date(value) if group == "day" else value for group, value in found},
        record_count=row["record_count"],
        open_count=row["open_count"],
        estimated_count=row["estimated_count"],
        unpriced_count=row["unpriced_count"],
        usage=Usage(**sums, estimated=row["estimated_count"] > 0),
        first_created_time=row["first_created_time"],
        last_created_time=row["last_created_time"],
    )


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()
