"""What the database holds. All names begin with `tokenwire_`: a database may be shared.

A change here needs a revision in `migrations/versions`.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    text,
)

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
"""One row a key, as `tenants.key.ApiKey`; rows are never deleted. Times are seconds since the epoch."""

key_revision = Table(
    "tokenwire_key_revision",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)
"""One row: the revision of the newest change of a key. Whoever changes keys holds its lock, so that
revisions are committed in their order."""

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
    Index("ix_tokenwire_usage_records_tenant", "tenant", "created_time", "stream_id"),
    Index("ix_tokenwire_usage_records_created_time", "created_time", "stream_id"),
    Index(
        "ix_tokenwire_usage_records_open",
        "instance_id",
        postgresql_where=text("outcome = 'open'"),
        sqlite_where=text("outcome = 'open'"),
    ),
)
"""One row a stream, as `ledger.record.UsageRecord`; the keys of labels are percent-encoded.

`created_day`: whole days since the epoch, UTC, of `created_time`. `update_time`: when the row was written
last, by the database's clock; no index holds it, so that the figures of an open stream are cheap to
renew."""

instances = Table(
    "tokenwire_instances",
    metadata,
    Column("instance_id", String, primary_key=True),
    Column("started_time", Double, nullable=False),
    Column("lease_expire_time", Double, nullable=False),
)
"""One row a running server process. Times are the database's clock's."""
