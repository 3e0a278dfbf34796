"""Damage on the disks: found, counted, deleted, written anew; and what happens where that fails."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.base import Damage
from gateway.sections import Disk
from gateway.upkeep import scrubber
from router.chunk_tier import ChunkKey
from router.documents import DocumentId, Key, Owner, Salt
from router.errors import EngineFailed
from tests.fakes.engine import CHUNK_BYTES, FakeHost, FakeKVServer, Fault, key_of
from tests.fakes.gateway import eventually
from tests.fakes.store import MemoryStore
from tests.gateway.tiers import SIZE, TieredGateway, TrueHost, text

QUESTION = "What is it about?"
FAST = Disk(scrub_mib_per_s=1000.0)
SUSPECTS = Disk(scrub_mib_per_s=0.0)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubber, "IDLE_S", 0.01)
    monkeypatch.setattr(scrubber, "RETRY_S", 0.05)


class CountedServer(FakeKVServer):
    """Counts what it reads to verify."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(host)
        self.verified: list[Salt] = []
        self.verified_bytes = 0

    async def verify(self, keys: Sequence[ChunkKey], salt: Salt) -> Damage:
        found = await super().verify(keys, salt)
        self.verified.append(salt)
        self.verified_bytes += found.read_bytes
        return found


class Rig(TieredGateway):
    kv_servers: list[CountedServer]  # type: ignore[assignment]

    def __init__(self, folder: Path, *, disk: Disk = FAST, **more: Any) -> None:
        super().__init__(folder, disk=disk, **more)
        self.kv_servers = [CountedServer(host) for host in self.hosts]
        self.kv_server = self.kv_servers[0]

    def damage(self, document_id: str, *chunks: int, host: int = 0) -> set[ChunkKey]:
        """These chunks of it are not what was stored any more."""
        found = sorted(self.hosts[host].disk[self.salt(document_id)], key=len)
        keys = {key_of(found[number]) for number in chunks}
        self.hosts[host].damaged |= keys
        return keys

    def whole(self, document_id: str, host: int = 0) -> bool:
        """All of it lies there, undamaged."""
        chunks = self.hosts[host].disk.get(self.salt(document_id), set())
        return len(chunks) * CHUNK_BYTES == SIZE and not {key_of(chunk) for chunk in chunks} & self.hosts[host].damaged

    async def metrics(self) -> dict[str, float]:
        """Damaged chunks, and repairs by outcome and host."""
        async with self.session.get(f"{self.admin_url}/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        found: dict[str, float] = {}
        for sample in (sample for family in families for sample in family.samples):
            labels = sorted(value for name, value in sample.labels.items() if name.startswith("kvshelf"))
            if sample.name in ("kvshelf_damaged_chunks_total", "kvshelf_repairs_total"):
                found[" ".join((sample.name.split("_")[1], *labels))] = sample.value
        return found

    async def metrics_hold(self, expected: dict[str, float]) -> bool:
        return await self.metrics() == expected

    def place(self, document_id: str) -> Key:
        return Owner("tenant-a"), DocumentId(document_id)


async def test_damage_is_found_counted_deleted_and_written_anew(tmp_path: Path) -> None:
    async with Rig(tmp_path).running() as running:
        await running.add(text("a"), id="a")
        await running.add(text("b"), id="b")
        running.cool()
        before = running.workers[0].prefilled_tokens
        running.damage("a", -2, -1)
        await eventually(lambda: running.whole("a"))
        await eventually(lambda: running.metrics_hold({"damaged kv": 2, "repairs kv mended": 1}))
        assert set(running.kv_server.deleted) == {running.salt("a")}
        assert running.workers[0].prefilled_tokens - before < 2 * running.version("a").prefix_tokens
        running.cool()
        answer = await running.ask(QUESTION, document="a")
        assert answer["headers"]["x-cache-tier"] == "disk"
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= running.version("a").prefix_tokens


async def test_what_is_damaged_is_dropped_from_ram_too_as_it_would_not_be_written_else(tmp_path: Path) -> None:
    async with Rig(tmp_path).running() as running:
        await running.add(text("a"), id="a")
        written = len(running.host.stored)
        running.damage("a", 0)
        await eventually(lambda: running.whole("a"))
        await eventually(lambda: len(running.host.stored) > written)


async def test_a_question_that_met_less_than_was_believed_leads_to_a_look(tmp_path: Path) -> None:
    async with Rig(tmp_path, disk=SUSPECTS).running() as running:
        await running.add(text("a"), id="a")
        await running.add(text("b"), id="b")
        running.cool()
        running.damage("a", 5)
        running.damage("b", 5)
        assert running.kv_servers[0].verified == []
        answer = await running.ask(QUESTION, document="a")
        assert answer["headers"]["x-cache-tier"] == "disk"
        assert answer["choices"]
        await eventually(lambda: running.whole("a"))
        assert not running.whole("b")  # nobody asked it, and nothing is looked through
        assert set(running.kv_servers[0].verified) == {running.salt("a")}


async def test_what_was_suspected_and_found_whole_rests_before_it_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that meets less for another reason, as where RAM is too tight to decrypt, had all files read at every question."""
    monkeypatch.setattr(scrubber, "REST_S", 3600.0)
    monkeypatch.setattr(scrubber, "LONGEST_REST_S", 3600.0)
    async with Rig(tmp_path, disk=SUSPECTS).running() as running:
        await running.add(text("a"), id="a")
        running.workers[0].forgets = True
        server, batches = running.kv_servers[0], -(-SIZE // CHUNK_BYTES // scrubber.BATCH)
        for _ in range(4):
            running.cool()
            await running.ask(QUESTION, document="a")
            await eventually(lambda: len(server.verified) >= batches)
        assert len(server.verified) == batches


async def test_a_suspicion_while_it_rests_is_looked_into_afterwards_and_damage_ends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubber, "REST_S", 0.2)
    async with Rig(tmp_path, disk=SUSPECTS).running() as running:
        await running.add(text("a"), id="a")
        worker, server = running.workers[0], running.kv_servers[0]
        worker.forgets = True
        running.cool()
        await running.ask(QUESTION, document="a")
        await eventually(lambda: server.verified)
        worker.forgets = False
        for times in (1, 2):
            running.cool()
            running.damage("a", 5)
            await running.ask(QUESTION, document="a")
            # Until the repair is over: a question beside it meets what it reads, and suspects nothing.
            mended = {"damaged kv": times, "repairs kv mended": times}
            await eventually(lambda mended=mended: running.metrics_hold(mended))
            assert running.whole("a")


async def test_files_are_read_at_the_rate_that_is_allowed(tmp_path: Path) -> None:
    """At 20 documents a second at most two are read in a tenth of one, and what was read meanwhile."""
    rate = Disk(scrub_mib_per_s=20 * SIZE / 2**20)
    async with Rig(tmp_path, disk=rate).running() as running:
        for name in "abcd":
            await running.add(text(name), id=name)
        server, clock = running.kv_servers[0], time.monotonic
        began, before = clock(), server.verified_bytes
        await eventually(lambda: server.verified_bytes - before >= 4 * SIZE)
        seconds = clock() - began
        assert seconds >= (4 * SIZE - scrubber.BATCH * CHUNK_BYTES) / (20 * SIZE) * 0.9


async def test_a_repair_that_fails_is_counted_and_tried_again(tmp_path: Path) -> None:
    async with Rig(tmp_path, disk=SUSPECTS).running() as running:
        await running.add(text("a"), id="a")
        running.cool()
        running.damage("a", 3)
        worker = running.workers[0]

        def fails() -> None:
            running.kv_server.before_delete = None
            worker.faults = [Fault(EngineFailed("too odd"))] * 2

        running.kv_server.before_delete = fails
        await running.ask(QUESTION, document="a")
        await eventually(lambda: running.whole("a"))
        await eventually(lambda: running.metrics_hold({"damaged kv": 1, "repairs failed kv": 2, "repairs kv mended": 1}))


async def test_what_cannot_be_deleted_is_looked_at_again(tmp_path: Path) -> None:
    async with Rig(tmp_path).running() as running:
        await running.add(text("a"), id="a")
        running.kv_server.problem = "is away"
        running.damage("a", 3)
        await eventually(lambda: len(running.kv_servers[0].verified) > 12)
        assert running.host.damaged
        running.kv_server.problem = None
        await eventually(lambda: running.whole("a"))


async def test_what_is_removed_meanwhile_stays_removed_and_the_others_are_looked_at(tmp_path: Path) -> None:
    """The document's chunks were forgotten while one was deleted, and nothing was ever looked at again."""
    async with Rig(tmp_path).running() as running:
        await running.add(text("a"), id="a")
        await running.add(text("b"), id="b")
        salt, version = running.salt("a"), running.version("a")

        def removed() -> None:
            running.kv_server.before_delete = None
            running.shelf.catalog = running.shelf.catalog.without(*running.place("a"))
            running.ledger.forget(version)

        running.kv_server.before_delete = removed
        running.damage("a", 5)
        await eventually(lambda: running.kv_server.before_delete is None)
        running.damage("b", 5)
        await eventually(lambda: running.whole("b"))
        written = running.host.stored.count(salt)
        await eventually(lambda: running.kv_servers[0].verified[-1] == running.salt("b"))
        assert running.host.stored.count(salt) == written
        assert running.ledger.keys(Salt(salt)) == ()


async def test_of_two_hosts_only_the_damaged_one_is_mended(tmp_path: Path) -> None:
    hosts = [TrueHost("left"), TrueHost("right")]
    async with Rig(tmp_path, hosts=hosts, workers=2).running() as running:
        await running.add(text("a"), id="a")
        salt = running.salt("a")
        held = 0 if salt in hosts[0].disk else 1
        hosts[1 - held].disk[salt] = set(hosts[held].disk[salt])
        running.cool()
        asked = len(running.workers[1 - held].bodies)
        running.damage("a", 4, host=held)
        hosts[1 - held].damaged.clear()
        await eventually(lambda: running.whole("a", held))
        assert salt not in running.kv_servers[1 - held].deleted
        assert len(running.workers[1 - held].bodies) == asked
        assert running.whole("a", 1 - held)


async def test_what_another_engine_read_and_what_expired_is_not_looked_at(tmp_path: Path) -> None:
    store, host = MemoryStore(), TrueHost()
    async with Rig(tmp_path, store=store, hosts=[host]).running() as first:
        await first.add(text("a"), id="a")
        old = first.salt("a")
    async with Rig(tmp_path, store=store, hosts=[host], versions={"vllm": "1", "lmcache": "0"}).running() as second:
        await eventually(lambda: second.salt("a") != old and second.salt("a") in second.kv_servers[0].verified)
        assert old not in second.kv_servers[0].verified
