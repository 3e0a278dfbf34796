"""What is used of the limits, where the store, the shared storage or a request fails in the middle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.tenants import counters
from gateway.tenants.authenticator import Principal
from gateway.tenants.counters import Counters
from gateway.tenants.limiter import Limiter
from gateway.tenants.limits_file import TenantLimits
from observability.telemetry import Telemetry
from router.documents import TenantId
from router.limits import Charge, Rates, minute
from router.viewers import Viewer
from tests.fakes.gateway import eventually
from tests.fakes.shared_counts import Shared
from tests.fakes.store import MemoryStore

NOW = 1_700_000_040.0
RATES = Rates(requests_per_minute=100, streams=1, tokens_per_minute=1000, token_budget=1000)
PRINCIPAL = Principal(Viewer(TenantId("tenant-a")), "k1", (), "", RATES)


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore()
    await made.open()
    return made


def limiter(store: MemoryStore, shared: Any = None) -> Limiter:
    return Limiter(TenantLimits(None), Counters(store, shared, now=lambda: NOW), Telemetry())


def used(shared: Shared, account: str) -> int:
    return shared.counts.used(account, minute(NOW)).current


async def spent(store: MemoryStore) -> int:
    """What a gateway that starts now takes up of the key's budget."""
    fresh = Counters(store, None, now=lambda: NOW)
    await fresh.load()
    taken, _ = await fresh.take([fresh.budget("key/k1", RATES, 0)])
    return taken.used[0].current


async def test_what_is_reserved_is_not_saved_and_what_is_settled_is(store: MemoryStore) -> None:
    gate = limiter(store)
    admission = await gate.admit(PRINCIPAL)
    assert admission is not None
    first, second = await admission.reserve(50, 50), await admission.reserve(10, 40)
    assert first is not None
    assert second is not None
    await gate.counters.save()
    assert await spent(store) == 0
    first.settle(70)
    await gate.counters.save()
    assert await spent(store) == 70
    second.settle(60)  # more than was thought
    await gate.counters.save()
    assert await spent(store) == 130


async def test_a_budget_that_the_database_did_not_take_is_saved_later(store: MemoryStore) -> None:
    gate = limiter(store)
    admission = await gate.admit(PRINCIPAL)
    assert admission is not None
    hold = await admission.reserve(50, 50)
    assert hold is not None
    hold.settle(70)
    store.fault = "The disk is full."
    await gate.counters.save()
    store.fault = None
    assert await spent(store) == 0
    await gate.counters.save()
    assert await spent(store) == 70


async def test_it_is_saved_at_the_end(store: MemoryStore) -> None:
    gate = limiter(store)
    running = asyncio.create_task(gate.counters.run())
    await asyncio.sleep(0)
    admission = await gate.admit(PRINCIPAL)
    assert admission is not None
    hold = await admission.reserve(50, 50)
    assert hold is not None
    hold.settle(70)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await spent(store) == 70


async def test_who_leaves_while_the_storage_is_asked_has_taken_nothing(store: MemoryStore) -> None:
    shared = Shared()
    gate = limiter(store, shared)
    shared.may.clear()
    admitting = asyncio.create_task(gate.admit(PRINCIPAL))
    await shared.asked.wait()
    admitting.cancel()
    await asyncio.gather(admitting, return_exceptions=True)
    shared.may.set()
    await eventually(lambda: shared.taken == 1 and used(shared, "requests/key/k1") == 0)


async def test_what_could_not_be_given_back_is_once_the_storage_is_there_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "TEND_EVERY_S", 0.01)
    shared = Shared()
    gate = limiter(store, shared)
    running = asyncio.create_task(gate.counters.run())
    admission = await gate.admit(PRINCIPAL)
    assert admission is not None
    async with admission.question():
        hold = await admission.reserve(50, 50)
        assert used(shared, "tokens/key/k1") == 100
        assert len(shared.leases) == 1
        shared.away = True
        assert hold is not None
        hold.settle(30)
        await eventually(lambda: gate.counters.problem is not None)
        assert used(shared, "tokens/key/k1") == 100
        shared.leases.clear()  # as where the storage was restarted
        shared.away = False
        await eventually(lambda: (used(shared, "tokens/key/k1"), len(shared.leases)) == (30, 1))
        assert gate.counters.problem is None
    await gate.counters.close()
    assert shared.leases == set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_refund_gives_back_all_that_was_settled_too(store: MemoryStore) -> None:
    gate = limiter(store)
    admission = await gate.admit(PRINCIPAL)
    assert admission is not None
    first, second = await admission.reserve(50, 50), await admission.reserve(20, 20)
    assert first is not None
    assert second is not None
    first.settle(70)
    admission.refund()
    second.settle(0)
    admission.refund()
    charges = [Charge(f"{what}/key/k1", 1000, 0, minute(NOW)) for what in ("tokens", "requests")]
    taken, _ = await gate.counters.take([*charges, gate.counters.budget("key/k1", RATES, 0)])
    assert [used.current for used in taken.used] == [0, 0, 0]
    assert gate.counters.reserved_of(gate.counters.budget("key/k1", RATES, 0)) == 0
