"""What keeps the tiers in order beside the questions: orphans, leftovers, what expired, what is pinned and was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import Content
from gateway.sections import Disk
from gateway.upkeep import housekeeper
from router.documents import VersionId
from router.errors import StoreUnavailable
from tests.fakes.engine import CHUNK, Gate
from tests.fakes.gateway import eventually
from tests.fakes.store import MemoryStore
from tests.gateway.tiers import SIZE, TieredGateway, TrueHost, budget, text

QUESTION = "What is it about?"
OFTEN = Disk(look_every_s=0.01)


class Clock:
    """The time, and what a test adds to it."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class ForgetfulStore(MemoryStore):
    """Gives `contents` more, and then none while that is 0."""

    contents = 1000

    async def content(self, version_id: VersionId) -> Content:
        if not self.contents:
            raise StoreUnavailable("The disk is full.")
        self.contents -= 1
        return await super().content(version_id)


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper, "REST_S", 0.02)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def running(tmp_path: Path, clock: Clock) -> AsyncIterator[TieredGateway]:
    """With document `a`; the disk is looked at all the time."""
    async with TieredGateway(tmp_path, disk=OFTEN, now=clock).running() as gateway:
        await gateway.add(text("a"), id="a")
        yield gateway


def orphan(host: TrueHost, salt: str = "nobodys") -> str:
    host.disk[salt] = {(1,), (1, 2)}
    host.ram[salt] = {(1,)}
    return salt


async def some_looks(running: TieredGateway, number: int = 3) -> None:
    """Until the disk was looked at so many times more."""
    scans = [0]
    scan = running.kv_server.scan

    async def counted() -> Any:
        scans[0] += 1
        return await scan()

    running.kv_server.scan = counted  # type: ignore[method-assign]
    await eventually(lambda: scans[0] >= number)
    running.kv_server.scan = scan  # type: ignore[method-assign]


# --- what nobody wants


async def test_what_belongs_to_no_document_is_removed_once_it_is_old(running: TieredGateway) -> None:
    host, salt = running.host, orphan(running.host)
    host.age_s = 599.0
    await some_looks(running)
    assert salt in host.disk
    host.age_s = 600.0
    await eventually(lambda: salt not in host.disk and salt not in host.ram)
    await some_looks(running)
    assert running.on_disk() == {"a"}
    assert running.ledger.disk("kv").total_bytes == SIZE


async def test_what_could_not_be_removed_is_tried_again(running: TieredGateway) -> None:
    running.kv_server.problem, running.host.age_s = "is down", 10_000.0
    salt = orphan(running.host)
    await some_looks(running)
    assert salt in running.host.disk
    running.kv_server.problem = None
    await eventually(lambda: salt not in running.host.disk)


async def test_a_removed_document_that_is_still_asked_is_no_orphan(running: TieredGateway) -> None:
    salt = running.salt("a")
    running.host.age_s = 10_000.0
    gate = Gate(running.workers[0], at=1)
    held = asyncio.create_task(running.ask(QUESTION, document="a"))
    await gate.reached()
    await running.json("DELETE", "/v1/documents/a")
    await some_looks(running)
    assert salt in running.host.disk
    gate.open()
    assert (await held)["choices"]
    await running.add(text("b"), id="b")  # removed ones are cleared at the next change
    await eventually(lambda: salt not in running.host.disk)


async def test_half_written_files_are_removed_and_strange_ones_are_reported_and_left_alone(running: TieredGateway) -> None:
    running.host.partial, running.host.foreign = ["one.tmp", "two.tmp"], ["notes.txt"]
    await eventually(lambda: not running.host.partial)
    await some_looks(running)
    assert running.host.foreign == ["notes.txt"]
    (line,) = [line for line in (await running.metrics()).splitlines() if line.startswith("kvshelf_foreign_files{")]
    assert line.endswith(" 1.0")


# --- what expired


async def test_a_document_that_expires_loses_its_kv_and_is_answered_cold(running: TieredGateway, clock: Clock) -> None:
    await running.add(text("b"), id="b", ttl_s=1000.0)
    salt = running.salt("b")
    await some_looks(running)
    assert running.on_disk() == {"a", "b"}
    clock.ahead_s = 1001.0
    await eventually(lambda: salt not in running.host.disk and salt not in running.host.ram)
    assert running.on_disk() == {"a"}
    (job,) = [job for job in (await running.json("GET", "/v1/jobs"))["data"] if job["kind"] == "evict"]
    assert (job["document"], job["why"], job["state"]) == ("b", "it expired", "done")
    assert "expired" in (await running.json("POST", "/v1/documents/b/warm", status=409))["error"]["message"]
    written = len(running.host.stored)
    running.cool()
    for tier in ("none", "gpu"):
        assert (await running.ask(QUESTION, document="b"))["headers"]["x-cache-tier"] == tier
    await some_looks(running)
    assert len(running.host.stored) == written
    await running.json("PATCH", "/v1/documents/b", json={"ttl_s": None})
    await running.ask(QUESTION, document="b")
    assert running.on_disk() == {"a", "b"}


async def test_what_expires_while_it_is_asked_goes_afterwards(running: TieredGateway, clock: Clock) -> None:
    await running.json("PATCH", "/v1/documents/a", json={"ttl_s": 1000.0})
    gate = Gate(running.workers[0], at=1)
    held = asyncio.create_task(running.ask(QUESTION, document="a"))
    await gate.reached()
    clock.ahead_s = 1001.0
    await some_looks(running)
    assert running.on_disk() == {"a"}
    gate.open()
    assert (await held)["choices"]
    await eventually(lambda: running.on_disk(whole=False) == set())


async def test_what_comes_with_a_short_time_to_live_expires_long_before_the_next_look(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=Disk(look_every_s=1000.0)).running() as running:
        await running.add(text("a"), id="a")
        await running.add(text("b"), id="b", ttl_s=0.5)
        await running.json("PATCH", "/v1/documents/a", json={"ttl_s": 0.3})
        await eventually(lambda: running.on_disk(whole=False) == set())
        assert running.host.ram == {}


# --- what is pinned


async def pin(running: TieredGateway, document: str = "a") -> None:
    await running.json("PATCH", f"/v1/documents/{document}", json={"pinned": True})


async def test_a_pinned_document_that_was_lost_is_read_again(running: TieredGateway) -> None:
    await pin(running)
    await some_looks(running)
    read = running.workers[0].prefilled_tokens
    running.cool()
    running.host.disk.clear()
    await eventually(lambda: running.on_disk() == {"a"})
    assert running.workers[0].prefilled_tokens >= read + running.version("a").prefix_tokens
    (job,) = [job for job in (await running.json("GET", "/v1/jobs"))["data"] if "on no disk" in (job["why"] or "")]
    assert (job["kind"], job["document"], job["tier"]) == ("warm", "a", "disk")


async def test_one_that_lost_a_single_chunk_is_whole_again(running: TieredGateway) -> None:
    await pin(running)
    chunks = running.host.disk[running.salt("a")]
    chunks.remove(next(chunk for chunk in chunks if len(chunk) == 3 * CHUNK))
    await eventually(lambda: running.on_disk() == {"a"})


async def test_one_that_only_ram_still_holds_is_written_again(running: TieredGateway) -> None:
    """The KV server writes a chunk only as it comes to RAM: what is there is dropped first."""
    read = running.workers[0].prefilled_tokens
    running.host.disk.clear()
    await pin(running)
    await eventually(lambda: running.on_disk() == {"a"})
    assert running.salt("a") in running.host.ram
    assert running.workers[0].prefilled_tokens < read + running.version("a").prefix_tokens  # its GPU had it


async def test_so_is_one_of_which_a_new_gateway_can_not_know_that_ram_holds_it(tmp_path: Path) -> None:
    host = TrueHost()
    async with TieredGateway(tmp_path, hosts=[host], disk=OFTEN).running() as first:
        await first.add(text("a"), id="a")
        host.disk.clear()
    async with TieredGateway(tmp_path, hosts=[host], disk=OFTEN, store=first.store).running() as second:
        await pin(second)
        await eventually(lambda: second.on_disk() == {"a"})


async def test_one_whose_keys_could_not_be_learnt_at_first_is_looked_at_and_not_read_again(tmp_path: Path) -> None:
    host, store = TrueHost(), ForgetfulStore()
    async with TieredGateway(tmp_path, hosts=[host], disk=OFTEN, store=store).running() as first:
        await first.add(text("a"), id="a", pinned=True)
    store.contents = 1  # for the routing, at the start
    async with TieredGateway(tmp_path, hosts=[host], disk=OFTEN, store=store).running() as second:
        await some_looks(second, 1)
        assert second.ledger.disk_share(second.version("a"), "kv") == 0
        store.contents = 1000
        await eventually(lambda: second.ledger.disk_share(second.version("a"), "kv") == 1)
        await some_looks(second)
        assert second.workers[0].bodies == []


async def test_one_that_is_whole_is_left_alone(running: TieredGateway) -> None:
    await pin(running)
    bodies = len(running.workers[0].bodies)
    await some_looks(running, 5)
    assert len(running.workers[0].bodies) == bodies
    assert all("on no disk" not in (job["why"] or "") for job in (await running.json("GET", "/v1/jobs"))["data"])


async def test_one_for_which_there_is_no_room_waits_until_there_is(tmp_path: Path) -> None:
    disk = budget(1, look_every_s=0.01)
    async with TieredGateway(tmp_path, disk=disk).running() as running:
        await running.add(text("a"), id="a")
        await running.add(text("b"), id="b")
        await pin(running, "b")
        await pin(running, "a")
        await some_looks(running)
        assert running.on_disk() == {"b"}
        failed = [
            job for job in (await running.json("GET", "/v1/jobs"))["data"] if job["document"] == "a" and job["tier"] == "disk"
        ]
        assert "pinned" in failed[-1]["error"]
        await running.json("PATCH", "/v1/documents/b", json={"pinned": False})
        await eventually(lambda: running.on_disk(whole=False) == {"a"})
        assert running.host.peak_bytes <= SIZE
