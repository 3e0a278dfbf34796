"""For the prefetcher's tests: a gateway whose time can be moved on and whose prefetches can be held, with documents on its disk alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from backends.base import Memory
from gateway.upkeep.prefetcher import STATE
from router.documents import Salt
from router.prediction import Predictor
from tests.fakes.embedder import FakeEmbedder
from tests.fakes.engine import FakeHost, FakeKVServer
from tests.fakes.gateway import eventually
from tests.fakes.store import MemoryStore
from tests.gateway.tiers import TieredGateway, TrueHost, text

HOUR_S = 3_600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1.75e9

    def __call__(self) -> float:
        return self.now


class HeldPrefetches(FakeKVServer):
    """Can hold prefetches, and fail them alone."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(host)
        self.may = asyncio.Event()
        self.may.set()
        self.fails = False
        self.tried: list[Salt] = []
        self.looks = 0
        """How often it was asked what its RAM holds: before each time that room is made there."""

    async def memory(self) -> Memory | None:
        self.looks += 1
        return await super().memory()

    async def prefetch(self, ids: Sequence[int], salt: Salt) -> int:
        self.tried.append(salt)
        await self.may.wait()
        if self.fails:
            raise OSError("the disk is away")
        return await super().prefetch(ids, salt)


class Rig(TieredGateway):
    """A gateway of one host; `clock` moves its time on."""

    server: HeldPrefetches

    def __init__(self, folder: Path, **more: Any) -> None:
        self.clock = more.setdefault("now", Clock())
        super().__init__(folder, **more)
        self.server = HeldPrefetches(self.host)
        self.kv_servers = [self.server]
        self.kv_server = self.server

    def in_ram(self) -> set[str]:
        """The documents that are whole in RAM."""
        return {d.id for d in self.shelf.catalog if d.current and self.ledger.ram_share(d.current, self.host.name) >= 1}

    async def planned(self) -> None:
        """It was planned once more: a document that was just pinned is in RAM."""
        await self.json("PATCH", "/v1/documents/z", json={"pinned": True})
        await eventually(lambda: "z" in self.in_ram())

    def salt(self, document_id: str) -> Salt:
        return next(d.current.salt for d in self.shelf.catalog if d.id == document_id and d.current)

    async def prefetches(self) -> dict[str, float]:
        """What became of them, by outcome."""
        async with self.session.get(f"{self.admin_url}/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        found = [sample for family in families for sample in family.samples if sample.name == "kvshelf_prefetches_total"]
        return {next(value for name, value in sample.labels.items() if "outcome" in name): sample.value for sample in found}


@asynccontextmanager
async def shelved(
    folder: Path, *names: str, owner: str = "tenant-a", follows: bool = False, embedder: FakeEmbedder | None = None, **more: Any
) -> AsyncIterator[Rig]:
    """A gateway that has just started, with these documents and `z` on its disk alone. `follows`: b was asked after a of old."""
    store, host, clock = MemoryStore(), TrueHost(), Clock()
    async with Rig(folder, store=store, hosts=[host], now=clock).running() as first:
        for name in (*names, "z"):
            await first.add(text(name), id=name, shared=owner == "*")
    host.restart()
    await store.open()
    if follows:
        predictor = Predictor()
        for _ in range(60):
            followed(predictor, f"{owner}/a", f"{owner}/b", clock)
        await store.put_state(STATE, predictor.to_bytes(), clock.now)
    second = Rig(folder, store=store, hosts=[host], now=clock, **more)
    if embedder is not None:
        second.embedder = embedder
    async with second.running():
        yield second


def followed(predictor: Predictor, first: str, then: str, clock: Clock) -> None:
    """Neither often nor at one hour of the day: only after one another."""
    predictor.asked("tenant-a", first, clock.now)
    predictor.asked("tenant-a", then, clock.now + 60)
    clock.now += 31 * HOUR_S
