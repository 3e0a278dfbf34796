"""A reading counts only if its KV is kept. Without HTTP: the gateway waits half a minute for it, which is too long here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.ingestion.ingestion import ATTEMPTS, Ingestion
from gateway.ingestion.reader import Reader
from gateway.pool import WorkerPool
from gateway.sections import Disk
from gateway.shelf.charges import ReadingCharges
from gateway.shelf.classifier import Classifier
from gateway.shelf.documents import Shelf
from gateway.shelf.matchings import Matchings
from gateway.shelf.prefixes import PrefixCache
from gateway.shelf.reading import Reading
from gateway.tiers.disk_keeper import DiskKeeper
from gateway.tiers.hosts import Hosts
from gateway.tiers.ram_keeper import RamKeeper
from gateway.tiers.ram_quotas import RamQuotas
from gateway.tiers.speeds import Speeds
from gateway.tiers.uses import Uses
from observability.telemetry import Telemetry
from router.documents import Descriptor, DocumentId, Owner, Version, VersionState
from router.matching import Thresholds
from router.prompts import derive
from router.residency import Ledger
from tests.fakes.engine import CHUNK, FakeHost, FakeKVServer, FakeWorker
from tests.fakes.gateway import CONTEXT, RESERVE, SECRET, eventually
from tests.fakes.store import MemoryStore
from tests.fakes.tokenizers import simple

OWNER, LEASE = Owner("tenant-a"), DocumentId("lease")
TEXT = "# Lease\n\nThe deposit is 2,400 euros."
WITHIN_S = 0.15


class Desk:
    """A shelf and its ingestion over fakes, with little patience for KV to appear."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.host = FakeHost()
        self.worker = FakeWorker("worker-1", self.host)
        self.kv_server = FakeKVServer(self.host)
        self.store = MemoryStore()
        tokenizer = simple()
        ledger = Ledger({self.worker.name: self.kv_server.name})
        reading = Reading(tokenizer, derive(tokenizer, CHUNK), "fingerprint", SECRET, CONTEXT, RESERVE)
        classifier = Classifier(self.store, None, Matchings(self.store, now=time.time), telemetry, Thresholds(0.2, 0.02))
        hosts = Hosts([self.kv_server], ledger)
        keeper = DiskKeeper(hosts, ledger, Uses(self.store, now=lambda: 0.0), reading, Disk(), telemetry, token_bytes=1.0)
        charges = ReadingCharges()
        self.shelf = Shelf(self.store, classifier, reading, keeper.check, charges, now=lambda: 0.0)
        self.pool = WorkerPool([self.worker], ledger, at_once=8)
        quotas = RamQuotas(self.shelf, ledger)
        ram = RamKeeper(
            self.shelf, self.pool, hosts, ledger, quotas, telemetry, policy_name="lru", token_bytes=1.0, now=lambda: 0.0
        )
        reader = Reader(
            self.shelf,
            self.pool,
            hosts,
            keeper,
            ram,
            PrefixCache(self.store, "small"),
            ledger,
            reading,
            Speeds(self.store, now=lambda: 0.0),
            telemetry,
            model="small",
            segment_target_s=0.5,
            stored_within_s=WITHIN_S,
        )
        self.ingestion = Ingestion(self.shelf, self.pool, reader, charges, telemetry)

    async def put(self) -> None:
        await self.shelf.put(OWNER, LEASE, TEXT, Descriptor("Lease"))

    @property
    def version(self) -> Version:
        document = self.shelf.catalog.get(OWNER, LEASE)
        assert document is not None
        assert document.answering is not None
        return document.answering

    def is_in(self, state: VersionState) -> Any:
        return lambda: self.version.state is state

    @property
    def whole_readings(self) -> int:
        return sum(len(body["prompt"]) == self.version.prefix_tokens for body in self.worker.bodies)

    @property
    def verifications(self) -> int:
        return sum(len(body["prompt"]) > self.version.prefix_tokens for body in self.worker.bodies)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    telemetry = Telemetry()
    desk = Desk(telemetry)
    await desk.store.open()
    await desk.pool.check()
    running = asyncio.create_task(desk.ingestion.run())
    yield desk
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    telemetry.close()


async def test_kv_that_is_not_kept_is_read_again_three_times_and_then_given_up(desk: Desk) -> None:
    desk.host.keeps = False
    await desk.put()
    await eventually(desk.is_in(VersionState.FAILED))
    assert desk.whole_readings == ATTEMPTS == 3
    assert desk.verifications == 0
    assert "its KV was not kept" in str(desk.version.error)
    assert "Is the KV server up, and is there room on its disk?" in str(desk.version.error)


async def test_a_version_that_was_given_up_is_read_again_when_it_is_put_again(desk: Desk) -> None:
    desk.host.keeps = False
    await desk.put()
    await eventually(desk.is_in(VersionState.FAILED))
    given_up = desk.version
    desk.host.keeps = True
    await desk.put()
    await eventually(desk.is_in(VersionState.READY))
    assert desk.version.id != given_up.id
    assert desk.version.salt == given_up.salt


async def test_kv_that_is_kept_at_the_second_reading_makes_it_ready(desk: Desk) -> None:
    desk.host.keeps = False
    await desk.put()
    await eventually(lambda: desk.whole_readings == 1)
    desk.host.keeps = True
    await eventually(desk.is_in(VersionState.READY))
    assert desk.whole_readings == 2
    assert desk.verifications == 1


async def test_a_kv_server_that_is_down_is_waited_for_and_costs_no_reading(desk: Desk) -> None:
    desk.host.keeps, desk.kv_server.problem = False, "is down"
    await desk.put()
    await eventually(lambda: desk.whole_readings == 1)
    checks = desk.kv_server.checks
    await eventually(lambda: desk.kv_server.checks >= checks + 5)  # a good while longer than WITHIN_S
    assert desk.whole_readings == 1
    assert desk.version.state is VersionState.READING
    desk.host.keeps, desk.kv_server.problem = True, None
    await eventually(desk.is_in(VersionState.READY))
    assert desk.whole_readings == 2


async def test_kv_that_a_question_does_not_meet_is_not_ready(desk: Desk) -> None:
    """Files may be there and yet be unusable: what counts is that a question is answered from them."""
    desk.worker.forgets = True
    await desk.put()
    await eventually(desk.is_in(VersionState.FAILED))
    assert (desk.whole_readings, desk.verifications) == (ATTEMPTS, ATTEMPTS)
    assert "its KV was not kept" in str(desk.version.error)
    desk.worker.forgets = False
    await desk.put()
    await eventually(desk.is_in(VersionState.READY))


async def test_nothing_is_left_of_a_reading_whose_document_was_removed(desk: Desk) -> None:
    desk.host.keeps = False
    await desk.put()
    await eventually(lambda: desk.whole_readings == 1)
    await desk.shelf.remove(OWNER, LEASE)
    bodies = len(desk.worker.bodies)
    await desk.shelf.put(OWNER, DocumentId("other"), "Another one.", Descriptor("Other"))
    await eventually(lambda: len(desk.worker.bodies) > bodies)
    assert len({body["cache_salt"] for body in desk.worker.bodies}) == 2
    assert len({body["cache_salt"] for body in desk.worker.bodies[bodies:]}) == 1
