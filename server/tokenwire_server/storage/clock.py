"""What time it is, by the clock that all users of a database share: its own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class DatabaseTime(FunctionElement[float]):
    """Seconds since the epoch, when the statement runs: the server's clock on PostgreSQL, this machine's
    on SQLite. The clocks of the machines that ask play no part.
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
    return (
        "((julianday('now') - 2440587.5) * 86400.0)"  # unixepoch() knows no fractions before 3.42
    )
