"""Add whether a stream was served with the tenant's own provider key.

The column has no default, so that adding it rewrites no row. Older records have none.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("tokenwire_usage_records", sa.Column("own_key", sa.Boolean))
