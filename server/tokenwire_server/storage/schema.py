"""The database schema: its tables, and its revisions.

All names begin with `tokenwire_`, because a database may be shared. A change of a table needs a revision in
`migrations/versions`.

A revision is four digits. The first one is the generation: a server can use the schema of every newer
revision of its own generation. So a server of the release before continues to run, and starts, while the
servers are upgraded one after the other. Within a generation, a revision only creates tables, and adds
columns that the release before need not fill.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    column,
    inspect,
    select,
    table,
    text,
)

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
"""All revisions in `migrations/versions`, oldest first. The last one is this version's schema."""
MIGRATIONS = f"{__package__}:migrations"
"""The folder of the revisions, as Alembic names it."""
VERSION_TABLE = "tokenwire_version"
"""The table in which Alembic stores the revision."""

metadata = MetaData()

api_keys = Table(
    "tokenwire_api_keys",
    metadata,
    Column("prefix", String, primary_key=True),
    Column("family", String, nullable=False),
    Column("tenant", String, nullable=False, index=True),
    Column("digest", LargeBinary, nullable=False),
    Column("models", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("create_time", Double, nullable=False),
    Column("expire_time", Double),
    Column("revoke_time", Double),
    Column("revision", BigInteger, nullable=False, index=True),
)
"""One row for each key, as `tenants.key.ApiKey`. Rows are never deleted. Times are seconds since the
epoch."""

key_revision = Table(
    "tokenwire_key_revision",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)
"""One row: the revision of the newest change of a key or a provider key. A change locks it, so that revisions
are committed in order."""

provider_keys = Table(
    "tokenwire_provider_keys",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("provider", String, primary_key=True),
    Column("ciphertext", LargeBinary),
    Column("master_key_id", String, nullable=False),
    Column("create_time", Double, nullable=False),
    Column("revision", BigInteger, nullable=False, index=True),
)
"""One row for each provider key of a tenant, as `tenants.provider_keystore.StoredProviderKey`. Rows are never
deleted: without a ciphertext, the key was deleted. Times are seconds since the epoch."""

usage_records = Table(
    "tokenwire_usage_records",
    metadata,
    Column("stream_id", String, primary_key=True),
    Column("instance_id", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("key_prefix", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("model_asked", String, nullable=False),
    Column("created_time", Double, nullable=False),
    Column("created_day", Integer, nullable=False),
    Column("provider", String, nullable=False),
    Column("model", String, nullable=False),
    Column("provider_response_id", String, nullable=False),
    Column("end_time", Double),
    Column("ttft_s", Double),
    Column("outcome", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger),
    Column("cache_read_tokens", BigInteger),
    Column("cache_write_tokens", BigInteger),
    Column("estimated", Boolean, nullable=False),
    Column("cost_microusd", BigInteger),
    Column("partial", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("from_cache", Boolean, nullable=False),
    Column("update_time", Double, nullable=False),
    Column("long_cache_write_tokens", BigInteger),
    Column("server_tool_counts", JSON(none_as_null=True)),
    Column("service_tier", String),
    Column("failed_attempts", JSON(none_as_null=True)),
    Column("own_key", Boolean),
    Column("filters", JSON(none_as_null=True)),
    Index("ix_tokenwire_usage_records_tenant", "tenant", "created_time", "stream_id"),
    Index("ix_tokenwire_usage_records_created_time", "created_time", "stream_id"),
    Index(
        "ix_tokenwire_usage_records_open",
        "instance_id",
        postgresql_where=text("outcome = 'open'"),
        sqlite_where=text("outcome = 'open'"),
    ),
)
"""One row for each stream, as `ledger.record.UsageRecord`. The keys of labels are percent-encoded.
`server_tool_counts` is an object with the calls of each tool, or null if there are none.
`failed_attempts` is a list of objects, as `ledger.record.FailedAttempt`, or null if there are none.
`filters` is a list of objects, as `ledger.record.FilterAction`, or null if there are none.
`own_key` is null in records of older versions, which had no provider keys of tenants.

`created_day` is the day of `created_time`, in whole days since the epoch (UTC). `update_time` is when the row
was last written, by the database's clock. It has no index, so that updating an open stream is cheap."""

instances = Table(
    "tokenwire_instances",
    metadata,
    Column("instance_id", String, primary_key=True),
    Column("started_time", Double, nullable=False),
    Column("lease_expire_time", Double, nullable=False),
)
"""One row for each running server process. Times are those of the database's clock."""


def revision_of(connection: Connection) -> str | None:
    """Return the revision of the database, or None if it has no schema of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = table(VERSION_TABLE, column("version_num"))
    found = connection.scalars(select(version.c.version_num)).all()
    return ", ".join(found) if found else None


def is_newer(found: str) -> bool:
    """Return whether a revision is one of a later release whose schema this version can use."""
    newest = REVISIONS[-1]
    return bool(re.fullmatch("[0-9]{4}", found)) and found[0] == newest[0] and found > newest


def upgrader() -> Callable[[Connection], None]:
    """Return a function that applies the missing revisions, in the connection's transaction.

    Imports Alembic, which takes 100 ms.
    """
    from alembic import command
    from alembic.config import Config

    def upgrade(connection: Connection) -> None:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", MIGRATIONS)
        command.upgrade(config, REVISIONS[-1])

    return upgrade
