"""The statements that write usage records."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    String,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    func,
    literal_column,
    or_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ..storage.schema import usage_records
from ..storage.sql import DatabaseTime, upsert
from .record import Outcome, UsageRecord
from .rows import FIGURES, figures_of, row_of

ROWS = "rows"
"""The parameter of `figures_statement`."""

_column = usage_records.c
_GIVEN = tuple(each.name for each in usage_records.columns if each.name != "update_time")
_CHANGING = tuple(each.name for each in usage_records.columns if not each.primary_key)
_encode = msgspec.json.Encoder().encode


class Upsert:
    """The statement that inserts or replaces a record, as `UsageStore.write` specifies.

    Run it with `exec_driver_sql`. For 100 records this takes about half the time of `execute`, in which
    SQLAlchemy converts each parameter of each row.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        new = upsert(connection, usage_records)
        # Literals, so that every parameter is the value of a column.
        open_, lost = (
            literal_column(f"'{outcome}'", String) for outcome in (Outcome.OPEN, Outcome.LOST)
        )
        was_open = _column.outcome == open_
        was_lost = and_(_column.outcome == lost, new.excluded.outcome != lost)
        compiled = (
            new.values({name: bindparam(name) for name in _GIVEN} | {"update_time": DatabaseTime()})
            .on_conflict_do_update(
                index_elements=[_column.stream_id],
                set_={name: new.excluded[name] for name in _CHANGING},
                where=or_(was_open, was_lost),
            )
            .compile(dialect=connection.dialect)
        )
        self.text = str(compiled)
        self._in_order = itemgetter(*(compiled.positiontup or ()))

    def parameters(self, records: Iterable[UsageRecord]) -> list[tuple[Any, ...]]:
        """Return the parameters of `text` for each record."""
        return [self._in_order(row_of(record)) for record in records]


def figures_statement(connection: AsyncConnection) -> Update:
    """Return the statement that updates the FIGURES of open records that have rows.

    All rows are one parameter, `as_json`. SQLAlchemy would take more time for one parameter of each column of
    each row than the database takes to update them.
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
    """Return the parameter of `figures_statement`."""
    return _encode([figures_of(record) for record in records]).decode()
