"""Usage records, and the leases of the processes that write them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "tokenwire_usage_records",
        sa.Column("stream_id", sa.String, primary_key=True),
        sa.Column("instance_id", sa.String, nullable=False),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("key_prefix", sa.String, nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("model_asked", sa.String, nullable=False),
        sa.Column("created_time", sa.Double, nullable=False),
        sa.Column("created_day", sa.Integer, nullable=False),
        sa.Column("provider", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("provider_response_id", sa.String, nullable=False),
        sa.Column("end_time", sa.Double),
        sa.Column("ttft_s", sa.Double),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger),
        sa.Column("cache_read_tokens", sa.BigInteger),
        sa.Column("cache_write_tokens", sa.BigInteger),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("cost_microusd", sa.BigInteger),
        sa.Column("partial", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("from_cache", sa.Boolean, nullable=False),
        sa.Column("update_time", sa.Double, nullable=False),
    )
    op.create_index(
        "ix_tokenwire_usage_records_tenant",
        "tokenwire_usage_records",
        ["tenant", "created_time", "stream_id"],
    )
    op.create_index(
        "ix_tokenwire_usage_records_created_time",
        "tokenwire_usage_records",
        ["created_time", "stream_id"],
    )
    op.create_index(
        "ix_tokenwire_usage_records_open",
        "tokenwire_usage_records",
        ["instance_id"],
        postgresql_where=sa.text("outcome = 'open'"),
        sqlite_where=sa.text("outcome = 'open'"),
    )
    op.create_table(
        "tokenwire_instances",
        sa.Column("instance_id", sa.String, primary_key=True),
        sa.Column("started_time", sa.Double, nullable=False),
        sa.Column("lease_expire_time", sa.Double, nullable=False),
    )
