"""What the database holds. All names begin with `tokenwire_`: a database may be shared.

A change here needs a revision in `migrations/versions`.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
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
