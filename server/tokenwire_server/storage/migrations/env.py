"""What Alembic runs to apply the revisions: on the connection that it is given, in its transaction."""

from __future__ import annotations

from alembic import context

from tokenwire_server.storage.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
