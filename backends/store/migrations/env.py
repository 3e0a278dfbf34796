"""Run by Alembic for each command, never imported. The connection comes from `configuration` in `__init__.py`."""

from __future__ import annotations

from alembic import context

from backends.store.tables import metadata

# Batch: SQLite changes most things about a table by copying it.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
