"""The schema's revisions: up from nothing, down again, and not beyond what this code knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec.structs import replace
from sqlalchemy import Connection, inspect, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from backends.store import migrations
from backends.store.sql_store import SqlStore
from backends.store.tables import metadata
from router.documents import DocumentId, Part, VersionState
from router.errors import StoreUnavailable
from tests.backends.store.samples import CONTENT, document, run_sql, stored, version


@pytest.fixture
async def opened_once(database_url: str) -> str:
    store = SqlStore(database_url)
    await store.open()
    await store.put_document(document())
    await store.close()
    return database_url


@pytest.fixture
async def engine(opened_once: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(opened_once)
    yield made
    await made.dispose()


async def test_the_revisions_build_the_tables_that_the_code_uses(engine: AsyncEngine) -> None:
    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_down_to_nothing_and_up_again(engine: AsyncEngine, opened_once: str) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.downgrade(migrations.configuration(sync), "base"))
    async with engine.connect() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["alembic_version"]

    store = SqlStore(opened_once)
    await store.open()
    assert await store.documents() == []
    await store.close()


async def test_a_database_of_the_first_revision_keeps_everything(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        Path(str(make_url(database_url).database)).parent.mkdir()
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.upgrade(migrations.configuration(sync), "0001"))
    await engine.dispose()
    blob = "x'{}'".format if database_url.startswith("sqlite") else r"'\x{}'".format
    text, prefix_ids = blob(CONTENT.text.encode().hex()), blob(CONTENT.prefix_ids.hex())
    await run_sql(
        database_url,
        f"INSERT INTO versions VALUES ('v1', '{'d' * 64}', '{'f' * 64}', 'salt-v1', 900, 1024, 'ready', 1024, NULL, 0)",  # noqa: S608 - nobody else's words
        f"INSERT INTO contents VALUES ('v1', {text}, {prefix_ids}, {blob('')}, '')",  # noqa: S608 - the same
        """INSERT INTO documents VALUES ('acme', 'lease', 'Lease', '', '["flat"]', '[]', 'api', 'v1', NULL, 1.5, 2.5)""",
        """INSERT INTO api_keys VALUES ('k1', 'acme', 'laptop', '5e', '["ask"]', 2.5, NULL)""",
    )

    store = SqlStore(database_url)
    await store.open()
    assert await run_sql(database_url, "SELECT version_num FROM alembic_version") == [("0007",)]
    ready = version(state=VersionState.READY, read_tokens=1024)
    kept = document(current=ready, updated_at=2.5)
    assert await store.documents() == [kept]
    assert (kept.pinned, kept.ttl_s, kept.expires_at, kept.descriptor.aliases) == (False, None, None, ())
    assert await store.content(ready.id) == CONTENT
    assert [key.public_id for key in await store.keys()] == ["k1"]
    await store.put_document(replace(kept, pinned=True))
    await store.put_state("uses", b"many", 3.0)
    assert await store.documents() == [replace(kept, pinned=True)]
    assert await run_sql(database_url, "SELECT name, updated_at FROM states") == [("uses", 3.0)]
    await store.close()

    # And back: what the first revision knew is still there.
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.downgrade(migrations.configuration(sync), "0001"))
    await engine.dispose()
    assert await run_sql(database_url, "SELECT * FROM documents") == [
        ("acme", "lease", "Lease", "", '["flat"]', "[]", "api", "v1", None, 1.5, 2.5)
    ]


async def test_an_older_kvshelf_sees_no_volumes(opened_once: str, engine: AsyncEngine) -> None:
    store = SqlStore(opened_once)
    await store.open()
    whole = document(id=DocumentId("rules"), volumes=(DocumentId("rules#1"),))
    await store.put_document(whole)
    await store.put_document(document(id=whole.volumes[0], part=Part(whole.id, "Pets – Garden")))
    await store.close()
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: command.downgrade(migrations.configuration(sync), "0003"))
    assert await run_sql(opened_once, "SELECT id FROM documents ORDER BY id") == [("lease",), ("rules",)]


async def test_revisions_form_one_line(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        scripts = ScriptDirectory.from_config(await connection.run_sync(migrations.configuration))
    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1


async def test_a_newer_database_is_refused_untouched(opened_once: str) -> None:
    await run_sql(opened_once, "UPDATE alembic_version SET version_num = 'from_the_future'")
    store = SqlStore(opened_once)
    with pytest.raises(StoreUnavailable, match=r"schema from_the_future.*a newer kvshelf has used it. Upgrade kvshelf"):
        await store.open()
    assert await store.check() == "The store is not open."

    newest = "UPDATE alembic_version SET version_num = '0007'"
    await run_sql(opened_once, newest)
    await store.open()
    assert list(await stored(store)) == [("acme", "lease")]
    await store.close()


async def test_a_database_of_something_else_is_refused_untouched(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        store = SqlStore(database_url)  # makes the folder
        await store.open()
        await store.close()
        await run_sql(
            database_url, *(f"DROP TABLE {name}" for name in ("alembic_version", "contents", "documents", "api_keys", "states"))
        )
    else:
        await run_sql(database_url, "CREATE TABLE versions (id text)")
    store = SqlStore(database_url)
    with pytest.raises(StoreUnavailable, match="already exists"):
        await store.open()
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["versions"]
    await engine.dispose()
