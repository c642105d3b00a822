"""Provider keys of tenants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "tokenwire_provider_keys",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("provider", sa.String, primary_key=True),
        sa.Column("ciphertext", sa.LargeBinary),
        sa.Column("master_key_id", sa.String, nullable=False),
        sa.Column("create_time", sa.Double, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_tokenwire_provider_keys_revision", "tokenwire_provider_keys", ["revision"])
