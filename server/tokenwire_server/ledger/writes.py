"""The statements that write usage records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    Insert,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    func,
    or_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ..storage.schema import usage_records
from ..storage.sql import DatabaseTime, upsert
from .record import Outcome, UsageRecord
from .rows import FIGURES, figures_of

ROWS = "rows"
"""The parameter of `renew_statement`."""

_column = usage_records.c
_CHANGING = tuple(each.name for each in usage_records.columns if not each.primary_key)
_encode = msgspec.json.Encoder().encode


def keep_statement(connection: AsyncConnection) -> Insert:
    """Keeps the record of a row as `UsageStore.write` says, whether there is one of its stream or not."""
    new = upsert(connection, usage_records).values(update_time=DatabaseTime())
    is_open = _column.outcome == Outcome.OPEN.value
    mistaken = and_(
        _column.outcome == Outcome.LOST.value, new.excluded.outcome != Outcome.LOST.value
    )
    return new.on_conflict_do_update(
        index_elements=[_column.stream_id],
        set_={name: new.excluded[name] for name in _CHANGING},
        where=or_(is_open, mistaken),
    )


def renew_statement(connection: AsyncConnection) -> Update:
    """Renews the FIGURES of records in rows that are there, and open. All are one parameter, `as_json`: of
    each column of each row SQLAlchemy makes more work than the database does.
    """
    rows = bindparam(ROWS, type_=Text)
    new: dict[str, ColumnElement[Any]]
    if connection.dialect.name == "postgresql":
        given = func.json_array_elements(cast(rows, JSON)).table_valued("value", name="given")
        new = {
            name: cast(given.c.value.op("->>")(place), _column[name].type)
            for place, name in enumerate(FIGURES)
        }
    else:
        given = func.json_each(rows).table_valued("value", name="given")
        new = {
            name: func.json_extract(given.c.value, f"$[{place}]")
            for place, name in enumerate(FIGURES)
        }
    return (
        update(usage_records)
        .where(_column.stream_id == new.pop("stream_id"), _column.outcome == Outcome.OPEN.value)
        .values(**new, update_time=DatabaseTime())
    )


def as_json(records: Iterable[UsageRecord]) -> str:
    """What `renew_statement` takes."""
    return _encode([figures_of(record) for record in records]).decode()
