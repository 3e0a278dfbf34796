"""What goes wrong with a database, and what the reader is told."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError

from backends.store.database import Database, _explained
from backends.store.sql_store import SqlStore
from router.documents import Descriptor
from router.errors import StoreUnavailable
from tests.backends.store.samples import CONTENT, document, run_sql, stored, version


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://me:hunter2@host/db", "not one that kvshelf understands"),
        ("postgresql+psycopg://me:hunter2@host/db", "not one that kvshelf understands"),
        ("hunter2", "not one that kvshelf understands"),
        ("postgresql://me:hunter2@host:port/db", "not one that kvshelf understands"),
        ("sqlite://", "a store in memory keeps nothing"),
        ("sqlite+aiosqlite:///:memory:", "a store in memory keeps nothing"),
        ("postgresql+asyncpg://me:hunter2@127.0.0.1:1/db", "can't be used"),
    ],
)
async def test_an_unusable_url_is_explained_without_its_password(url: str, words: str) -> None:
    store = SqlStore(url)
    with pytest.raises(StoreUnavailable, match=words) as caught:
        await store.open()
    assert "hunter2" not in str(caught.value)
    assert await store.check() == "The store is not open."


async def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(StoreUnavailable, match=r"pip install 'kvshelf\[postgresql\]'"):
        await SqlStore("postgresql+asyncpg://me@host/db").open()


async def test_a_lost_connection_is_made_again(postgresql_url: str) -> None:
    store = SqlStore(postgresql_url)
    await store.open()
    await store.put_document(document())
    # Clients alone: the server's own autovacuum comes by once a minute.
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    assert await run_sql(postgresql_url, others) == [(True,)]
    assert await store.check() is None
    assert await store.documents() == [document()]
    await store.close()


# --- SQLite's file


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Databases opened meanwhile can't grow beyond 200 kB: SQLite's own way to a full disk."""

    def limit(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA max_page_count = 50")
        cursor.close()

    event.listen(Engine, "connect", limit)
    yield
    event.remove(Engine, "connect", limit)


@pytest.mark.usefixtures("small_disk")
async def test_a_full_disk_is_named_and_nothing_half_stored(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url)
    await store.open()
    await store.add_version(document(current=version()), version(), CONTENT)
    # Its last statement fails, so all before it must be undone.
    big = document("big", descriptor=Descriptor("Big", summary="secret" * 100_000))
    with pytest.raises(StoreUnavailable, match=r"disk is full, so nothing was stored\. Make room") as caught:
        await store.add_version(big, version("v2"), CONTENT)
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"
    assert await store.documents() == [document(current=version())]
    assert await store.unlinked_versions() == []
    await store.add_version(document("small"), version("v2"), CONTENT)
    await store.close()


async def test_a_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("buy milk\n" * 100)
    notes.chmod(0o644)
    with pytest.raises(StoreUnavailable, match="file is not a database"):
        await SqlStore(f"sqlite:///{notes}").open()
    assert notes.read_text() == "buy milk\n" * 100
    assert notes.stat().st_mode & 0o777 == 0o644


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"can't be used: .*/file"):
        await SqlStore(f"sqlite:///{tmp_path}/file/kvshelf.db").open()


async def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SqlStore(f"sqlite+aiosqlite:///{tmp_path}/new/kvshelf.db")
        await store.open()
        await store.put_document(document())
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
        assert modes == {"kvshelf.db": 0o600, "kvshelf.db-wal": 0o600, "kvshelf.db-shm": 0o600}
        await store.close()

        (tmp_path / "new" / "kvshelf.db").chmod(0o644)
        await store.open()
        assert (tmp_path / "new" / "kvshelf.db").stat().st_mode & 0o777 == 0o600
        await store.close()
    finally:
        os.umask(before)


async def test_every_connection_is_durable_and_checks_links(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.open()
    # Two at once: the one that migrated and a new one.
    async with database.read() as first, database.read() as second:
        for connection in (first, second):
            pragmas = {
                name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
            assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
    await database.close()


async def test_opening_waits_for_one_who_is_writing(tmp_path: Path) -> None:
    # Not yet in WAL mode, as a new file is for a moment: to change that, SQLite itself would not wait.
    with closing(sqlite3.connect(tmp_path / "kvshelf.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store = SqlStore(f"sqlite:///{tmp_path}/kvshelf.db")
        opening = asyncio.create_task(store.open())
        done, _ = await asyncio.wait([opening], timeout=0.2)
        assert not done
        other.execute("COMMIT")
        await opening
    assert await store.check() is None
    await store.close()


async def test_a_failed_transaction_is_undone(sqlite_url: str) -> None:
    store, database = SqlStore(sqlite_url), Database(sqlite_url)
    await store.open()
    await database.open()
    await store.put_document(document())

    async def fail_halfway() -> None:
        async with database.write() as connection:
            await connection.exec_driver_sql("DELETE FROM documents")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_halfway()
    assert list(await stored(store)) == [("acme", "lease")]
    await database.close()
    await store.close()


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("invalid input for query argument $3: 'the canary of a text' (a str is expected)", "invalid input for query argument $3"),
        (
            "duplicate key value violates unique constraint\nDETAIL:  Key (id)=(canary) already exists.",
            "duplicate key value violates",
        ),
    ],
)
def test_what_a_driver_shows_of_a_value_is_not_repeated(words: str, kept: str) -> None:
    told = _explained(DBAPIError("INSERT canary", {"text": "canary"}, Exception(words)))
    assert kept in told
    assert "canary" not in told
