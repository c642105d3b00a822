"""Which schema a database has."""

from __future__ import annotations

from sqlalchemy import Connection, column, inspect, select, table

REVISIONS = ("0001", "0002")
"""All that there are in `migrations/versions`, oldest first. The last one is this version's."""
VERSION_TABLE = "tokenwire_version"
"""Where Alembic keeps the revision."""

_version = table(VERSION_TABLE, column("version_num"))


def revision_of(connection: Connection) -> str | None:
    """The revision that the database has. None: it has no schema of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.scalars(select(_version.c.version_num)).all()
    return ", ".join(found) if found else None
