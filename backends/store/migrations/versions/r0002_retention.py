"""How long documents are kept, and small states."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("documents", sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("documents", sa.Column("ttl_s", sa.Double))
    op.add_column("documents", sa.Column("expires_at", sa.Double))
    op.create_table(
        "states",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_states"),
    )


def downgrade() -> None:
    op.drop_table("states")
    for column in ("expires_at", "ttl_s", "pinned"):
        op.drop_column("documents", column)
