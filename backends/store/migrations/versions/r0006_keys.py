"""Keys that expire, are narrowed and rotated; their new scopes; and the audit log, which the database lets nobody change."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Who may see the catalog had no scope of its own: every key could.
UP = {"ask": ("ask", "read"), "documents": ("write", "read"), "share": ("share", "read")}
DOWN = {"ask": ("ask",), "write": ("documents",), "share": ("share",)}


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("environment", sa.Text, nullable=False, server_default="live"))
    for name in ("expires_at", "last_used_at", "old_until"):
        op.add_column("api_keys", sa.Column(name, sa.Double))
    for name in ("documents", "tags"):
        op.add_column("api_keys", sa.Column(name, sa.Text, nullable=False, server_default="[]"))
    op.add_column("api_keys", sa.Column("old_hash", sa.Text))
    _rename_scopes(UP)
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    if op.get_bind().dialect.name == "sqlite":
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{what.lower()} BEFORE {what} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
    )


def downgrade() -> None:
    """An older kvshelf knows neither expiry nor allow-lists: keys that have one are revoked, rather than let it open more."""
    revoke = sa.text(
        "UPDATE api_keys SET revoked_at = :now WHERE revoked_at IS NULL "
        "AND (expires_at IS NOT NULL OR documents <> '[]' OR tags <> '[]' OR environment <> 'live')"
    )
    op.get_bind().execute(revoke, {"now": time.time()})
    _rename_scopes(DOWN)
    op.drop_table("audit")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION audit_is_append_only()")
    for name in ("old_hash", "tags", "documents", "old_until", "last_used_at", "expires_at", "environment"):
        op.drop_column("api_keys", name)


def _rename_scopes(names: Mapping[str, tuple[str, ...]]) -> None:
    bind = op.get_bind()
    for public_id, scopes in bind.execute(sa.text("SELECT public_id, scopes FROM api_keys")).all():
        renamed = list(dict.fromkeys(name for scope in json.loads(scopes) for name in names.get(scope, ())))
        bind.execute(
            sa.text("UPDATE api_keys SET scopes = :scopes WHERE public_id = :id"), {"scopes": json.dumps(renamed), "id": public_id}
        )
