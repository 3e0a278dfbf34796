"""Three workers on two hosts and a pool over them, for the pool's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import msgspec
import pytest

from backends.base import Load
from gateway.pool import WorkerPool
from router.chunk_tier import ChunkKey
from router.documents import Salt, Version, VersionId
from router.errors import EngineUnavailable
from router.residency import Ledger
from tests.fakes.engine import FakeHost, FakeWorker

KEYS = [ChunkKey(bytes([number])) for number in range(4)]
HOSTS = {"a1": "a", "a2": "a", "b1": "b"}
ALL = frozenset(HOSTS)


def version(number: int) -> Version:
    id_ = VersionId(f"version-{number}")
    return Version(id=id_, digest="", fingerprint="", salt=Salt(f"salt-{id_}"), document_tokens=1024, prefix_tokens=1024)


VERSION = version(0)


class AskedWorker(FakeWorker):
    """Tells when it was asked for its load, and can fail or be held up there."""

    def __init__(self, name: str) -> None:
        super().__init__(name, FakeHost())
        self.looks = 0
        self.load_error: Exception | None = None
        self.looked = asyncio.Event()
        self.may_tell = asyncio.Event()
        self.may_tell.set()

    async def load(self) -> Load | None:
        self.looks += 1
        load = await super().load()
        self.looked.set()
        await self.may_tell.wait()
        if self.load_error is not None:
            raise self.load_error
        return load


class Yard:
    """Three workers on two hosts, and a pool that has checked them once. It holds up to 4 questions a worker."""

    def __init__(self) -> None:
        self.ledger = Ledger(HOSTS)
        self.workers = {name: AskedWorker(name) for name in HOSTS}
        self.pool = WorkerPool(list(self.workers.values()), self.ledger, at_once=4, check_interval_s=0.001)

    def hold(self, *, gpu: str | None = None, ram: str | None = None, disk: str | None = None) -> None:
        """Have VERSION held on this worker's GPU, in this host's RAM, on its disk."""
        self.ledger.know(VERSION.salt, KEYS)
        if gpu is not None:
            self.ledger.gpu(gpu).stored(KEYS, None, VERSION.salt, 256)
        for tier in ([self.ledger.ram(ram)] if ram else []) + ([self.ledger.disk(disk)] if disk else []):
            for key in KEYS:
                tier.stored(VERSION.salt, key, 1)

    def picked(self, *, host: str | None = None, worker: str | None = None, avoid: frozenset[str] = frozenset()) -> str:
        return self.pool.pick(VERSION, avoid=avoid, host=host, worker=worker).name

    def refused(self, *, host: str | None = None, worker: str | None = None, avoid: frozenset[str] = frozenset()) -> str:
        with pytest.raises(EngineUnavailable) as caught:
            self.picked(host=host, worker=worker, avoid=avoid)
        assert caught.value.retry_after_s == (1 if "full" in str(caught.value) else 5)
        return str(caught.value)

    @contextmanager
    def fill(self, *names: str) -> Iterator[None]:
        slots = [self.pool.slot(self.workers[name]) for name in names for _ in range(4)]
        for slot in slots:
            slot.__enter__()
        yield
        for slot in slots:
            slot.__exit__(None, None, None)

    @asynccontextmanager
    async def question(self, name: str) -> AsyncIterator[None]:
        """A question of this gateway's under way on that worker, which counts it too."""
        body = msgspec.json.encode({"prompt": [1], "max_tokens": 1})
        with self.pool.slot(self.workers[name]):
            async with self.workers[name].complete([body]):
                yield


async def checked_yard() -> Yard:
    yard = Yard()
    await yard.pool.check()
    return yard
