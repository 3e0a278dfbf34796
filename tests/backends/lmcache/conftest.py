from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from backends.lmcache.events import CacheEventReceiver
from backends.lmcache.server import LMCacheServer
from router.residency import Ledger
from tests.backends.lmcache.fake_server import FakeLMCache, make
from tests.backends.lmcache.reports import HOST
from tests.backends.lmcache.samples import MASTER_KEY, MODEL
from tests.fakes.ports import free_port


@pytest.fixture
def fake() -> FakeLMCache:
    return FakeLMCache()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
async def url(fake: FakeLMCache) -> AsyncIterator[str]:
    async with TestServer(fake.app) as server:
        yield str(server.make_url("/"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kv").mkdir()
    (tmp_path / "kv.key").write_bytes(MASTER_KEY)
    return tmp_path / "kv"


@pytest.fixture
def lmcache(url: str, session: aiohttp.ClientSession, folder: Path) -> LMCacheServer:
    return make(url, session, folder)


@pytest.fixture
def unseen(url: str, session: aiohttp.ClientSession) -> LMCacheServer:
    """Its disk tier is on another machine."""
    return make(url, session, None)


@pytest.fixture
def down(session: aiohttp.ClientSession, folder: Path) -> LMCacheServer:
    return make(f"http://127.0.0.1:{free_port()}", session, folder)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger({"worker-1": HOST, "worker-2": "far"})


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def receiver(ledger: Ledger, port: int) -> CacheEventReceiver:
    return CacheEventReceiver("127.0.0.1", port, ledger, model=MODEL, silent_after_s=10)
