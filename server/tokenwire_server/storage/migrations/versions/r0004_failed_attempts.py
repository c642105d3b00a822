"""Add the attempts of a stream that failed.

The column has no default, so that adding it rewrites no row. Older records have none.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("tokenwire_usage_records", sa.Column("failed_attempts", sa.JSON))
