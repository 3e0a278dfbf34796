"""Documents in volumes: which document a volume is a part of, which volumes a document has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("documents", sa.Column("part_of", sa.Text))
    op.add_column("documents", sa.Column("headings", sa.Text))
    for name in ("volumes", "coming"):
        op.add_column("documents", sa.Column(name, sa.Text, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Volumes go: an older kvshelf would show each as a document of its own. Their wholes stay, without content."""
    op.execute("DELETE FROM documents WHERE part_of IS NOT NULL")
    for name in ("coming", "volumes", "headings", "part_of"):
        op.drop_column("documents", name)
