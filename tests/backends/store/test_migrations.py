"""The schema's revisions: up from nothing, down again, and not beyond what this code knows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec.structs import replace
from sqlalchemy import Connection, inspect, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from backends.records import ApiKey, AuditEntry
from backends.store import migrations
from backends.store.sql_store import SqlStore
from backends.store.tables import metadata
from router.documents import DocumentId, Part, TenantId, VersionState
from router.errors import StoreUnavailable
from tests.backends.store.samples import CONTENT, document, run_sql, stored, version


async def migrate(url: str, step: Callable[..., None], revision: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: step(migrations.configuration(sync), revision))
    await engine.dispose()


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
    assert await run_sql(database_url, "SELECT version_num FROM alembic_version") == [("0008",)]
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


async def test_stored_keys_get_the_scopes_of_today_and_back(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        Path(str(make_url(database_url).database)).parent.mkdir()
    await migrate(database_url, command.upgrade, "0005")
    before = {"a": ["ask"], "d": ["documents"], "s": ["share"], "all": ["ask", "documents", "share"], "none": []}
    rows = [
        f"INSERT INTO api_keys VALUES ('{id_}', 'acme', '', '5e', '{json.dumps(had)}', 2.5, NULL)"  # noqa: S608 - nobody else's words
        for id_, had in before.items()
    ]
    await run_sql(database_url, *rows)
    store = SqlStore(database_url)
    await store.open()
    found = {key.public_id: key for key in await store.keys()}
    assert {id_: key.scopes for id_, key in found.items()} == {
        "a": ("ask", "read"),
        "d": ("write", "read"),
        "s": ("share", "read"),
        "all": ("ask", "read", "write", "share"),
        "none": (),
    }
    assert found["a"] == ApiKey(
        public_id="a", tenant=TenantId("acme"), name="", secret_hash="5e", scopes=("ask", "read"), created_at=2.5
    )
    await store.change_key("d", lambda key: replace(key, documents=(DocumentId("lease"),)))
    await store.close()

    # And back: what an older kvshelf would let do more is revoked.
    await migrate(database_url, command.downgrade, "0005")
    rest = await run_sql(database_url, "SELECT public_id, scopes, revoked_at IS NOT NULL FROM api_keys ORDER BY public_id")
    assert [(id_, json.loads(scopes), bool(revoked)) for id_, scopes, revoked in rest] == [
        ("a", ["ask"], False),
        ("all", ["ask", "documents", "share"], False),
        ("d", ["documents"], True),
        ("none", [], False),
        ("s", ["share"], False),
    ]


async def test_the_database_lets_nobody_change_the_audit_log(database_url: str) -> None:
    statements = ["UPDATE audit SET actor = 'somebody else'", "DELETE FROM audit"]
    if not database_url.startswith("sqlite"):  # which has no other way to empty a table
        statements.append("TRUNCATE audit")
    store = SqlStore(database_url)
    await store.open()
    entry = AuditEntry(at=1.5, actor="k1", origin="::1", action="key.create", target="k2")
    await store.note(entry)
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"):
            await run_sql(database_url, statement)
    assert await store.audit(limit=9) == [replace(entry, number=1)]
    await store.close()


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

    newest = "UPDATE alembic_version SET version_num = '0008'"
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
            database_url,
            *(
                f"DROP TABLE {name}"
                for name in ("alembic_version", "contents", "documents", "api_keys", "states", "audit", "usage")
            ),
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
