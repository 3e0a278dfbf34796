"""Databases to test on: each test has an empty one."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from backends.base import Store
from backends.store.sql_store import SqlStore
from tests.backends.store import postgresql
from tests.backends.store.samples import run_sql
from tests.fakes.store import MemoryStore


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    pytest.importorskip("asyncpg", reason="asyncpg is not installed, so the store's tests ran on SQLite only")
    if url := os.environ.get(postgresql.VARIABLE):
        yield url
    elif programs := postgresql.binaries():
        with postgresql.server(programs) as url:
            yield url
    else:
        pytest.skip(postgresql.MISSING)


@pytest.fixture(scope="session")
async def postgresql_database(postgresql_server: str) -> AsyncIterator[str]:
    server = make_url(postgresql_server).set(drivername="postgresql+asyncpg")
    name = f"kvshelf_test_{uuid.uuid4().hex}"
    await run_sql(url_text(server), f"CREATE DATABASE {name}")
    yield url_text(server.set(database=name))
    await run_sql(url_text(server), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def postgresql_url(postgresql_database: str) -> AsyncIterator[str]:
    yield postgresql_database
    # As good as a new database, and ten times quicker.
    await run_sql(postgresql_database, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'data' / 'kvshelf.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def unopened_store(request: pytest.FixtureRequest) -> Store:
    return MemoryStore() if request.param == "memory" else SqlStore(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def store(unopened_store: Store) -> AsyncIterator[Store]:
    await unopened_store.open()
    yield unopened_store
    await unopened_store.close()


def url_text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
