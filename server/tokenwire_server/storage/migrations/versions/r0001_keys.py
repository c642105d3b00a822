"""Keys, and the revision of their newest change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "tokenwire_api_keys",
        sa.Column("prefix", sa.String, primary_key=True),
        sa.Column("family", sa.String, nullable=False),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("create_time", sa.Double, nullable=False),
        sa.Column("expire_time", sa.Double),
        sa.Column("revoke_time", sa.Double),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    for column in ("tenant", "revision"):
        op.create_index(f"ix_tokenwire_api_keys_{column}", "tokenwire_api_keys", [column])
    key_revision = op.create_table(
        "tokenwire_key_revision",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(key_revision, [{"id": 1, "revision": 0}])
