"""What a key may use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("limits", sa.Text, nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("api_keys", "limits")
