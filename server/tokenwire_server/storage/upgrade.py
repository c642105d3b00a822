"""Bringing the schema up to date, by Alembic. Imported only when there is something to do."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from .schema import REVISIONS


def upgrade(connection: Connection) -> None:
    """Apply the revisions that are missing, in the transaction that the connection is in."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", f"{__package__}:migrations")
    command.upgrade(config, REVISIONS[-1])
