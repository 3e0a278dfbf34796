"""Brings a database's schema to the newest revision, the last file of `versions/`.

Must not connect or commit: the caller holds the transaction and the lock (`backends/store/database.py`). To change the
schema, change `tables.py` and add a revision that does the same; never edit one that has been released.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from router.errors import StoreUnavailable


def configuration(connection: Connection) -> Config:
    """What Alembic's commands need, in place of an alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Run the missing revisions. Raises StoreUnavailable if a newer kvshelf made this database.

    Alembic keeps its context in module globals: a process may migrate only one database at a time.
    """
    config = configuration(connection)
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    present = MigrationContext.configure(connection).get_current_heads()
    if unknown := set(present) - known:
        raise StoreUnavailable(
            f"The database has schema {', '.join(sorted(unknown))}, which this kvshelf does not know (its newest is "
            f"{scripts.get_current_head()}): a newer kvshelf has used it. Upgrade kvshelf, or restore the database from before."
        )
    command.upgrade(config, "head")
