"""Which fields of a descriptor the engine wrote, and which somebody changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in ("generated", "edited"):
        op.add_column("documents", sa.Column(column, sa.Text, nullable=False, server_default="[]"))


def downgrade() -> None:
    for column in ("edited", "generated"):
        op.drop_column("documents", column)
