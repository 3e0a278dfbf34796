"""Each tenant's fitted weights: its own, looked up again now and then, so that another gateway's fit is used here as well."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from gateway.shelf.matchings import LOOK_UP_S, Matchings
from router.defaults import MATCHING
from router.documents import TenantId
from tests.fakes.store import MemoryStore

ACME, OTHER = TenantId("acme"), TenantId("other")
FITTED = replace(MATCHING, full=replace(MATCHING.full, sharpness=7.0))


class Clock:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


async def two() -> tuple[Matchings, Matchings, MemoryStore, Clock]:
    store, clock = MemoryStore(), Clock()
    await store.open()
    return Matchings(store, now=clock), Matchings(store, now=clock), store, clock


async def test_another_gateways_fit_is_used_once_it_is_looked_up_again() -> None:
    here, there, _, clock = await two()
    assert await here.get(ACME) == MATCHING
    await there.put(ACME, FITTED)
    assert await here.get(ACME) == MATCHING
    clock.at += LOOK_UP_S
    assert await here.get(ACME) == FITTED
    await there.put(ACME, None)
    clock.at += LOOK_UP_S
    assert await here.get(ACME) == MATCHING


async def test_a_fit_is_its_tenants_alone() -> None:
    here, there, _, _ = await two()
    await here.put(ACME, FITTED)
    assert await there.get(OTHER) == MATCHING
    assert await there.get(ACME) == FITTED


async def test_while_the_store_is_away_what_was_known_counts() -> None:
    here, there, store, clock = await two()
    await here.put(ACME, FITTED)
    store.fault = "is away"
    clock.at += LOOK_UP_S
    assert await here.get(ACME) == FITTED
    assert await there.get(ACME) == MATCHING
    store.fault = None
    assert await there.get(ACME) == FITTED


async def test_what_is_put_while_it_is_looked_up_stays() -> None:
    here, _, _, clock = await two()
    assert await here.get(ACME) == MATCHING
    clock.at += LOOK_UP_S
    looking = asyncio.create_task(here.get(ACME))
    putting = asyncio.create_task(here.put(ACME, FITTED))
    await asyncio.gather(looking, putting)
    assert await here.get(ACME) == FITTED
