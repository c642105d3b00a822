"""The usage records in the database: writes and queries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnCollection,
    ColumnElement,
    RowMapping,
    Update,
    case,
    delete,
    false,
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
from .rows import COUNTS, DAY_S, RECORD_COLUMNS, label_name, record_of, text_of
from .writes import ROWS, Upsert, as_json, figures_statement

MAX_SUMMARY_ROWS = 10_000
ROWS_AT_ONCE = 25
"""Number of rows that are read at once: 1 ms of the event loop."""
RECORDS_AT_ONCE = 50
"""Number of records that one statement writes: also 1 ms of the event loop."""
FIGURES_AT_ONCE = 200
"""Number of records of which one statement writes only the figures: also 1 ms."""

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

    Every method raises StoreUnavailable. A method that writes has then written all or nothing, and also when
    it is cancelled. It can be repeated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = QuerySlots()
        self._statements: tuple[Upsert, Update] | None = None  # built once, in 1 ms
        self.instances = Instances(database)

    async def write(
        self, records: Sequence[UsageRecord], figures: Sequence[UsageRecord] = ()
    ) -> None:
        """Write records, at most one of each stream.

        A closed record never changes again. An open one, or one that was closed as LOST, is replaced.
        Write the records of a stream from one task, in order, so that no record is replaced by an older
        one.

        `figures` are further records: those of open streams that have rows. Writing their figures takes
        about half as much of the event loop's time.
        """
        async with self._database.writing() as connection:
            if self._statements is None:
                self._statements = Upsert(connection), figures_statement(connection)
            upsert, update = self._statements
            for first in range(0, len(figures), FIGURES_AT_ONCE):
                some = figures[first : first + FIGURES_AT_ONCE]
                updated = await connection.execute(update, {ROWS: as_json(some)})
                if updated.rowcount < len(some):  # rows were deleted, or closed as LOST
                    records = [*records, *some]
            for first in range(0, len(records), RECORDS_AT_ONCE):
                some = records[first : first + RECORDS_AT_ONCE]
                await connection.exec_driver_sql(upsert.text, upsert.parameters(some))

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
        """Return the sums of each group, sorted by group.

        `group_by` contains any of "day", "model", "tenant", "key" and "label:KEY". A missing label counts
        as an empty one. Without groups there is one summary of all records, and none if there are no
        records.

        Raises SummaryTooLarge, ValueError for an unknown group, and RateLimited and Overloaded like
        `QuerySlots.slot`.
        """
        names = [f"group_{n}" for n in range(len(group_by))]
        groups = [_group(group).label(name) for name, group in zip(names, group_by, strict=True)]
        # A subquery, because PostgreSQL takes the repeated parameters of a group for different expressions.
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

    async def spent_since(
        self,
        time: float,
        longest_stream_s: float,
        *,
        except_instance: str = "",
        has_open: bool = True,
    ) -> dict[str, int]:
        """Return the cost of the streams that ended after a time, in microusd by tenant.

        Those of one start of a process, `except_instance`, do not count.

        Open streams count with their cost so far, or not at all without `has_open`. Streams without a known
        price do not count, nor do streams with the tenant's own provider key, nor those created more than
        `longest_stream_s` before the time.
        """
        sums = (
            select(_column.tenant, func.sum(_column.cost_microusd))
            .where(
                _column.created_time >= time - longest_stream_s,
                or_(_column.end_time.is_(None) if has_open else false(), _column.end_time >= time),
                _column.cost_microusd > 0,
                _column.instance_id != except_instance,
                _column.own_key.is_not(True),
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
        """Delete the oldest closed records that were created and last written before a time.

        Return how many were deleted, at most `batch`.

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
        """Begin the transaction of a query in a slot, because queries may be slow and many."""
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
    # PostgreSQL returns the sum of 64-bit integers as a Decimal.
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
