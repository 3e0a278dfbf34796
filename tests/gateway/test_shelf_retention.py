"""The shelf's `refresh`: a question moves a TTL on, with few writes, and never fails for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.records import AuditEntry
from gateway.shelf.documents import Shelf
from router.documents import Document, DocumentId, Owner
from tests.fakes.gateway import Gateway, eventually
from tests.fakes.store import MemoryStore

OWNER, LEASE = Owner("tenant-a"), DocumentId("lease")
TTL_S = 100.0
GRAIN_S = 5.0


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.puts = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def put_document(self, document: Document, *audit: AuditEntry) -> None:
        self.puts += 1
        await self.gate.wait()
        await super().put_document(document, *audit)


class Desk:
    def __init__(self, gateway: Gateway, store: CountingStore) -> None:
        self.gateway, self.store = gateway, store
        self.shelf: Shelf = gateway.apps.tenants.dependencies["shelf"].dependency()

    @property
    def document(self) -> Document:
        found = self.shelf.catalog.get(OWNER, LEASE)
        assert found is not None
        return found

    @property
    def expires_at(self) -> float:
        assert self.document.expires_at is not None
        return self.document.expires_at


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = CountingStore()
    async with Gateway(tmp_path, store=store).running() as gateway:
        await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id=LEASE, ttl_s=TTL_S)
        store.puts = 0
        yield Desk(gateway, store)


async def test_a_question_moves_the_expiry_to_a_ttl_from_then_and_that_is_stored(desk: Desk) -> None:
    before, now = desk.document, desk.expires_at - 10
    await desk.shelf.refresh(OWNER, LEASE, now)
    assert desk.expires_at == now + TTL_S
    (stored,) = await desk.store.documents()
    assert stored == desk.document
    assert desk.document.updated_at == before.updated_at
    assert desk.document.ttl_s == TTL_S


async def test_many_questions_are_few_writes(desk: Desk) -> None:
    start = desk.expires_at - TTL_S
    for second in range(1, 201):
        await asyncio.gather(*(desk.shelf.refresh(OWNER, LEASE, start + second / 10) for _ in range(10)))
    assert desk.store.puts == 20 / GRAIN_S
    assert desk.expires_at == start + 20 + TTL_S


async def test_a_refresh_that_is_not_due_tells_nobody(desk: Desk) -> None:
    change, before = desk.shelf.change, desk.shelf.catalog
    await desk.shelf.refresh(OWNER, LEASE, desk.expires_at - TTL_S + GRAIN_S / 2)
    assert not change.is_set()
    assert desk.shelf.catalog is before
    assert desk.store.puts == 0


async def test_what_has_expired_or_has_no_ttl_or_is_gone_is_left_alone(desk: Desk) -> None:
    await desk.shelf.refresh(OWNER, LEASE, desk.expires_at)
    await desk.shelf.refresh(OWNER, DocumentId("nowhere"), 0.0)
    assert desk.store.puts == 0
    for body in ({"ttl_s": None}, {"pinned": True}, {"pinned": False, "expire_at": "2099-01-01T00:00:00Z"}):
        await desk.gateway.json("PATCH", "/v1/documents/lease", json=body)
        before, desk.store.puts = desk.document, 0
        await desk.shelf.refresh(OWNER, LEASE, desk.shelf.now())
        assert desk.document == before
        assert desk.store.puts == 0


async def test_a_store_that_is_away_fails_no_question_and_the_next_moves_it(desk: Desk) -> None:
    before, now = desk.document, desk.expires_at - 10
    desk.store.fault = "The disk is full."
    await desk.shelf.refresh(OWNER, LEASE, now)
    assert desk.store.puts == 1
    assert desk.document == before
    desk.store.fault = None
    await desk.shelf.refresh(OWNER, LEASE, now)
    assert desk.expires_at == now + TTL_S


async def test_a_change_under_way_is_not_undone_by_a_refresh(desk: Desk) -> None:
    now = desk.expires_at - 10
    desk.store.gate.clear()
    pinning = asyncio.create_task(desk.gateway.json("PATCH", "/v1/documents/lease", json={"pinned": True, "ttl_s": None}))
    await eventually(lambda: desk.store.puts == 1)
    refreshing = asyncio.create_task(desk.shelf.refresh(OWNER, LEASE, now))
    await asyncio.sleep(0)
    desk.store.gate.set()
    await asyncio.gather(pinning, refreshing)
    assert (desk.document.pinned, desk.document.ttl_s, desk.document.expires_at) == (True, None, None)
    (stored,) = await desk.store.documents()
    assert stored == desk.document
