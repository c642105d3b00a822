"""Add what else determines the cost of a stream: long cache writes, calls of the provider's tools, its tier.

The columns have no default, so that adding them rewrites no row. Older records have none of these facts.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for column in (
        sa.Column("long_cache_write_tokens", sa.BigInteger),
        sa.Column("server_tool_counts", sa.JSON),
        sa.Column("service_tier", sa.String),
    ):
        op.add_column("tokenwire_usage_records", column)
