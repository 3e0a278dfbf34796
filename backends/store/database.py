"""One database: its engine, what makes a transaction durable, and the border where the library's errors become ours.

Must not know the tables. `sql_store.py` says what goes into a transaction, `migrations/` what the schema is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from backends.store import migrations
from router.errors import Conflict, StoreUnavailable

BUSY_TIMEOUT_S = 30
"""How long one process waits for another's write (or migration) on SQLite."""

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_MIGRATION_LOCK = 0x6B76_7368_656C_66
"""PostgreSQL's advisory locks have numbers: this one spells "kvshelf"."""


class Database:
    """Transactions on one SQLite file or PostgreSQL database. `open` first; `close` releases every connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: AsyncEngine | None = None
        # SQLite has one writer at a time. In this process they queue here, in order and without polling for the lock.
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        """Connect and migrate. Does nothing if open. Raises StoreUnavailable, and is then closed as before."""
        if self._engine is not None:
            return
        with translated():
            url = _checked(self._url)
            file = _path(url) if url.get_backend_name() == "sqlite" else None
            if file is not None:
                _make_file(file)
            engine = _create_engine(url)
            try:
                await _prepare(engine)
                if file is not None:
                    _make_private(file)
            except BaseException:
                await engine.dispose()
                raise
        self._engine = engine

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for one statement, which sees one state of the database."""
        with translated():
            async with self._opened().connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: on the disk when this ends, undone entirely when it raises."""
        engine = self._opened()
        on_sqlite = engine.dialect.name == "sqlite"
        with translated():
            async with self._writing if on_sqlite else nullcontext(), engine.begin() as connection:
                if on_sqlite:
                    # Locked from the start: SQLite refuses, rather than lets wait, one that has read before it writes.
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreUnavailable("The store is not open.")
        return self._engine


@contextmanager
def translated() -> Iterator[None]:
    """The border: what the database library raises inside leaves as Conflict or StoreUnavailable."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(
            "The database refused to store this: an entry of this id exists already, or the document names a version "
            "that is not stored (it may have been deleted meanwhile)."
        ) from error
    except (SQLAlchemyError, OSError) as error:  # asyncpg's failures to reach the server are plain OSErrors
        raise StoreUnavailable(_explained(error)) from error


def _explained(error: SQLAlchemyError | OSError) -> str:
    # Only the driver's own words: the library's message would add the statement.
    words = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    words = re.sub(r"^<class '[\w.]+'>: ", "", words)
    # And of these not what they show of a value: it may be a document's text.
    words = re.sub(r"(?s)(invalid input for query argument \$\d+).*|\s*DETAIL:.*", r"\1", words)
    if "disk is full" in words or "No space left" in words:
        return f"The database's disk is full, so nothing was stored. Make room and try again. ({words})"
    return f"The database can't be used: {words or type(error).__name__}"


def _checked(text: str) -> URL:
    """The URL with its driver filled in. Raises StoreUnavailable without repeating it, for it may hold a password."""
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):  # ValueError: a port that is no number
        url = URL.create("unreadable")
    driver = _DRIVERS.get(url.get_backend_name())
    if driver is None or url.drivername not in (driver, url.get_backend_name()):
        raise StoreUnavailable(
            "The database URL is not one that kvshelf understands. Use sqlite+aiosqlite:///path/to/kvshelf.db "
            "or postgresql+asyncpg://user:password@host/database (special characters in a password percent-encoded)."
        )
    return url.set(drivername=driver)


def _path(url: URL) -> Path:
    if not url.database or url.database.startswith((":memory:", "file:")):
        raise StoreUnavailable(
            "SQLite needs a file's path, sqlite+aiosqlite:///path/to/kvshelf.db: a store in memory keeps nothing."
        )
    return Path(url.database)


def _make_file(path: Path) -> None:
    """Make the file and its folder where they are absent, readable by nobody else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Never open one that exists: closing it again would drop the locks that SQLite holds on it in this process.
        path.touch(mode=0o600)


def _make_private(path: Path) -> None:
    """Take other users' rights to a database from elsewhere. Only once it has proved to be ours, not any file."""
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if file.exists():
            file.chmod(0o600)


def _create_engine(url: URL) -> AsyncEngine:
    # hide_parameters: a logged error must not hold document text.
    if url.get_backend_name() == "sqlite":
        # isolation_level None: no transaction begins behind our back; `write` says BEGIN itself.
        engine = create_async_engine(url, hide_parameters=True, connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S})
        event.listen(engine.sync_engine, "connect", _set_pragmas)
        return engine
    try:
        # pool_pre_ping: after the server's restart, the pool's connections are found dead before they are used.
        return create_async_engine(url, hide_parameters=True, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise StoreUnavailable(
            "PostgreSQL needs the package asyncpg, which is not installed: pip install 'kvshelf[postgresql]' "
            "(or asyncpg itself) into the gateway's environment."
        ) from error


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")  # in WAL mode, NORMAL may lose acknowledged commits with the power
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


async def _prepare(engine: AsyncEngine) -> None:
    """Bring the schema up to date in one transaction, one process after the other."""
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            await _use_wal(connection)
            # A migration may rebuild a table by dropping it, which must not cascade. Can't be changed in a transaction.
            await connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        await connection.run_sync(migrations.upgrade)
        await connection.commit()
        if engine.dialect.name == "sqlite":
            await connection.exec_driver_sql("PRAGMA foreign_keys=ON")


async def _use_wal(connection: AsyncConnection) -> None:
    """Put the file into write-ahead mode, for good: readers and the writer then don't block one another."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + BUSY_TIMEOUT_S
    while True:
        try:
            mode = (await connection.exec_driver_sql("PRAGMA journal_mode=WAL")).scalar_one()
            break
        except OperationalError as error:
            # Two that open a new file at once: for this one statement SQLite does not wait by itself.
            if "locked" not in str(error.orig) or clock() > deadline:
                raise
            await asyncio.sleep(0.02)
    if mode != "wal":
        raise StoreUnavailable("SQLite can't use write-ahead logging here. Network file systems don't offer it: use a local disk.")
