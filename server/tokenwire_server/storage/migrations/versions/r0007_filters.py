"""Add what content filters did in a stream.

The column has no default, so that adding it rewrites no row. Older records have none.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("tokenwire_usage_records", sa.Column("filters", sa.JSON))
