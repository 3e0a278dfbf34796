"""How fast workers read: kept over restarts, also what is measured while it is being saved."""

from __future__ import annotations

import asyncio

from gateway.tiers.speeds import Speeds
from tests.fakes.store import MemoryStore


async def test_what_is_measured_while_it_is_saved_is_saved_the_next_time() -> None:
    store = MemoryStore()
    await store.open()
    speeds = Speeds(store, now=lambda: 0.0)
    speeds.measured("a", 100, 1.0)
    saving = asyncio.create_task(speeds.save())
    await asyncio.sleep(0)
    speeds.measured("b", 300, 1.0)
    await saving
    await speeds.save()
    after = Speeds(store, now=lambda: 0.0)
    await after.load()
    assert (after.of("a"), after.of("b")) == (100.0, 300.0)


async def test_what_could_not_be_saved_is_saved_the_next_time() -> None:
    store = MemoryStore()
    await store.open()
    speeds = Speeds(store, now=lambda: 0.0)
    speeds.measured("a", 100, 1.0)
    store.fault = "is away"
    await speeds.save()
    store.fault = None
    await speeds.save()
    after = Speeds(store, now=lambda: 0.0)
    await after.load()
    assert after.of("a") == 100.0
