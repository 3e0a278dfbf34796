"""Several processes on one database, and what is left when one is killed."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from backends.store.sql_store import SqlStore
from tests.backends.store.samples import CONTENT, run_sql, stored, version

ROOT = Path(__file__).parents[3]


async def start(*arguments: str) -> Process:
    program = [sys.executable, "-m", "tests.backends.store.child"]
    return await asyncio.create_subprocess_exec(*program, *arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE)


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def test_what_was_acknowledged_survives_a_kill(database_url: str) -> None:
    child = await start("add", database_url)
    acknowledged = [await line(child) for _ in range(5)]
    child.kill()
    assert child.stdout is not None
    # What it had said before it died; it may have stored one more and died before saying so.
    acknowledged += (await child.stdout.read()).decode().split()
    await child.wait()

    store = SqlStore(database_url)
    await store.open()
    found = await stored(store)
    assert {f"v{n}" for n in range(5)} <= set(acknowledged)
    assert {current.id for each in found.values() if (current := each.current)} >= set(acknowledged)
    assert len(found) - len(acknowledged) in (0, 1)
    for each in found.values():
        assert each.current is not None
        assert each.current == version(each.current.id)
        assert await store.content(each.current.id) == CONTENT
    assert await store.unlinked_versions() == []
    await store.close()
    if database_url.startswith("sqlite"):
        assert await run_sql(database_url, "PRAGMA integrity_check") == [("ok",)]


async def test_processes_open_a_new_database_at_once(database_url: str) -> None:
    names = ["one", "two", "three"]
    children = [await start("open", database_url, name) for name in names]
    assert [await line(child) for child in children] == ["waiting"] * 3
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
    await asyncio.gather(*(child.communicate() for child in children))
    assert [child.returncode for child in children] == [0, 0, 0]

    store = SqlStore(database_url)
    await store.open()
    assert {id_ for _, id_ in await stored(store)} == set(names)
    await store.close()


async def test_stores_in_one_process_open_a_new_database_at_once(database_url: str) -> None:
    stores = [SqlStore(database_url) for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    assert [await store.check() for store in stores] == [None] * 6
    assert await run_sql(database_url, "SELECT count(*) FROM alembic_version") == [(1,)]
    for store in stores:
        await store.close()
