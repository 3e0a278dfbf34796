"""What each key asked of each document on each day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("tenant", "key", "document", "day")),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("questions", "parts", "refused", "prompt_tokens", "cached_tokens", "completion_tokens")
        ),
        sa.Column("saved_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", "document", "day", name="pk_usage"),
    )
    op.create_index("ix_usage_day", "usage", ["day"])


def downgrade() -> None:
    op.drop_table("usage")
