"""SQL that differs between the two databases: the time, and inserts that update."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class DatabaseTime(FunctionElement[float]):
    """The time of the statement in seconds since the epoch, by the clock that all users of a database share.

    On PostgreSQL this is the clock of the database server, on SQLite that of this machine.
    """

    type = Double()
    inherit_cache = True


@compiles(DatabaseTime, "postgresql")
def _postgresql(element: DatabaseTime, compiler: SQLCompiler, **options: Any) -> str:
    del element, compiler, options
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) AS DOUBLE PRECISION)"


@compiles(DatabaseTime, "sqlite")
def _sqlite(element: DatabaseTime, compiler: SQLCompiler, **options: Any) -> str:
    del element, compiler, options
    return "((julianday('now') - 2440587.5) * 86400.0)"  # before 3.42 unixepoch() has no fractions


def upsert(connection: AsyncConnection, table: Table) -> sqlite.Insert:
    """Return an insert that has `excluded` and `on_conflict_do_update`."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)  # type: ignore[return-value]  # the same methods, no common type
    return sqlite.insert(table)
