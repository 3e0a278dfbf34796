"""Documents, versions, contents and keys.

Spelled out rather than taken from `tables.py`: that module moves on, this revision doesn't.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "versions",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("document_tokens", sa.Integer, nullable=False),
        sa.Column("prefix_tokens", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("read_tokens", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
    )
    op.create_table(
        "contents",
        sa.Column("version_id", sa.Text, nullable=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("prefix_ids", sa.LargeBinary, nullable=False),
        sa.Column("vectors", sa.LargeBinary, nullable=False),
        sa.Column("embedder", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("version_id", name="pk_contents"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_contents_version_id", ondelete="CASCADE"),
    )
    op.create_table(
        "documents",
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("questions", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("current_id", sa.Text),
        sa.Column("incoming_id", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("owner", "id", name="pk_documents"),
        sa.ForeignKeyConstraint(["current_id"], ["versions.id"], name="fk_documents_current_id", ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["incoming_id"], ["versions.id"], name="fk_documents_incoming_id", ondelete="SET NULL"),
    )
    op.create_index("ix_documents_current_id", "documents", ["current_id"])
    op.create_index("ix_documents_incoming_id", "documents", ["incoming_id"])
    op.create_table(
        "api_keys",
        sa.Column("public_id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("public_id", name="pk_api_keys"),
    )


def downgrade() -> None:
    for table in ("api_keys", "documents", "contents", "versions"):
        op.drop_table(table)
