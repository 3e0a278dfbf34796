"""When documents were asked last, over restarts and where the database is away."""

from __future__ import annotations

import asyncio

from backends.records import AuditEntry
from gateway.tiers.uses import STATE, Uses
from router.documents import DocumentId, Owner
from tests.fakes.store import MemoryStore

A, B = (Owner("tenant-a"), DocumentId("a")), (Owner("*"), DocumentId("b"))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class HeldStore(MemoryStore):
    """Takes its time to put a state."""

    def __init__(self) -> None:
        super().__init__()
        self.putting = asyncio.Event()
        self.may_put = asyncio.Event()

    async def put_state(self, name: str, value: bytes, at: float, *audit: AuditEntry) -> None:
        self.putting.set()
        await self.may_put.wait()
        await super().put_state(name, value, at, *audit)


async def opened(store: MemoryStore | None = None) -> tuple[MemoryStore, Uses]:
    store = store or MemoryStore()
    await store.open()
    return store, Uses(store, now=Clock())


async def test_what_was_asked_last_is_known_after_a_restart() -> None:
    store, uses = await opened()
    uses.used(A)
    uses.used(B)
    uses.used(A)
    await uses.save()
    _, again = await opened(store)
    await again.load([A, B])
    assert again.last(A) > again.last(B) > 0
    assert again.last((Owner("tenant-b"), DocumentId("a"))) == 0
    assert repr(again) == "<Uses of 2 documents>"


async def test_what_is_asked_before_it_is_taken_up_counts_and_what_is_gone_does_not() -> None:
    store, uses = await opened()
    uses.used(A)
    uses.used(B)
    await uses.save()
    clock = Clock()
    clock.now = 1000.0
    again = Uses(store, now=clock)
    again.used(B)
    await again.load([B])
    assert (again.last(A), again.last(B)) == (0, 1001.0)


async def test_what_can_not_be_read_counts_as_never_asked() -> None:
    store, uses = await opened()
    await store.put_state(STATE, b"\xc1 not msgpack", 0.0)
    await uses.load([A])
    assert uses.last(A) == 0
    uses.used(A)
    await uses.save()
    _, again = await opened(store)
    await again.load([A])
    assert again.last(A) > 0


async def test_nothing_is_saved_where_nothing_was_asked() -> None:
    store, uses = await opened()
    await uses.save()
    assert await store.state(STATE) is None


async def test_what_could_not_be_saved_is_saved_later() -> None:
    store, uses = await opened()
    uses.used(A)
    store.fault = "The disk is full."
    await uses.save()
    store.fault = None
    assert await store.state(STATE) is None
    await uses.save()
    assert await store.state(STATE) is not None


async def test_it_is_saved_at_the_end() -> None:
    store, uses = await opened()
    running = asyncio.create_task(uses.run())
    await asyncio.sleep(0)
    uses.used(A)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await store.state(STATE) is not None


async def test_a_save_that_is_cut_off_is_not_taken_for_done() -> None:
    store = HeldStore()
    _, uses = await opened(store)
    uses.used(A)
    saving = asyncio.create_task(uses.save())
    await store.putting.wait()
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    store.may_put.set()
    await uses.save()
    assert await store.state(STATE) is not None
