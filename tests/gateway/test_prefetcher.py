"""Documents that come from disk to RAM before they are asked: which, when, and what tenants learn of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from backends.base import Vectors
from gateway.sections import Disk, Ram
from gateway.upkeep import prefetcher
from gateway.upkeep.prefetcher import STATE
from router.documents import Salt
from router.prediction import Predictor
from tests.fakes.embedder import FakeEmbedder
from tests.fakes.engine import Gate, key_of
from tests.fakes.gateway import eventually
from tests.fakes.store import MemoryStore
from tests.gateway.ahead import HOUR_S, Clock, Rig, shelved
from tests.gateway.tiers import TrueHost, text

QUESTION = "What is it about?"


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetcher, "LOOK_EVERY_S", 0.01)


async def test_what_often_followed_is_in_ram_when_it_is_asked_also_after_a_restart(tmp_path: Path) -> None:
    store, host, clock = MemoryStore(), TrueHost(), Clock()
    async with Rig(tmp_path, store=store, hosts=[host], now=clock).running() as first:
        for name in "abc":
            await first.add(text(name), id=name)
        for _ in range(30):
            for name in "ab":
                await first.ask(QUESTION, document=name)
                clock.now += 60
            clock.now += 31 * HOUR_S
    host.restart()
    async with Rig(tmp_path, store=store, hosts=[host], now=clock).running() as second:
        assert (await second.ask(QUESTION, document="a"))["headers"]["x-cache-tier"] == "disk"
        await eventually(lambda: "b" in second.in_ram())
        assert (await second.ask(QUESTION, document="b"))["headers"]["x-cache-tier"] == "ram"
        assert second.in_ram() == {"a", "b"}
        assert await second.prefetches() == {"used": 1}


async def test_what_follows_for_one_tenant_is_not_brought_for_another(tmp_path: Path) -> None:
    async with shelved(tmp_path, "a", "b", owner="*", follows=True) as running:
        other = await running.new_key("tenant-b")
        await running.ask(QUESTION, document="a", key=other)
        await running.planned()
        assert running.salt("b") not in running.server.tried
        await running.ask(QUESTION, document="a")
        await eventually(lambda: running.salt("b") in running.server.tried)


async def test_what_cannot_be_read_is_learned_anew(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.open()
    await store.put_state(STATE, b"no predictor", 0.0)
    async with Rig(tmp_path, store=store).running() as running:
        await running.add(text("a"), id="a")
        await running.ask(QUESTION, document="a")
    await store.open()
    kept = await store.state(STATE)
    assert kept is not None
    assert "1 documents" in repr(Predictor.from_bytes(kept))


async def test_pinned_documents_are_in_ram_again_after_the_kv_server_started_again(tmp_path: Path) -> None:
    async with shelved(tmp_path, "a", "b", "c", ram=Ram(policy="density")) as running:
        for name in "ab":
            await running.json("PATCH", f"/v1/documents/{name}", json={"pinned": True})
        for _ in range(2):
            await eventually(lambda: running.in_ram() == {"a", "b"})
            running.host.restart()
        await eventually(lambda: running.in_ram() == {"a", "b"})
        await running.json("PATCH", "/v1/documents/b", json={"pinned": False})
        running.host.restart()
        await eventually(lambda: running.in_ram() == {"a"})


@pytest.mark.parametrize("kept", [True, False])
async def test_pinned_documents_are_in_ram_after_a_restart_of_the_gateway(tmp_path: Path, kept: bool) -> None:
    """Also where the KV server went on, and does not say again what it holds: then they are asked for once."""
    store, host = MemoryStore(), TrueHost()
    async with Rig(tmp_path, store=store, hosts=[host]).running() as first:
        await first.add(text("a"), id="a", pinned=True)
        await first.add(text("z"), id="z")
    host.ledger = None
    if not kept:
        host.restart()
    async with Rig(tmp_path, store=store, hosts=[host]).running() as second:
        await eventually(lambda: second.in_ram() == {"a"})
        await second.planned()
        assert second.server.tried.count(second.salt("a")) == 1


async def test_without_prefetching_nothing_else_is_brought(tmp_path: Path) -> None:
    async with shelved(tmp_path, "rent", "loan", follows=True, ram=Ram(policy="density")) as running:
        await running.ask(QUESTION, document="rent")
        await running.json("POST", "/v1/chat/completions", json=_question("rent or loan?"), status=409)
        await running.planned()
        assert set(running.server.tried) == {running.salt("z")}


class SlowEmbedder(FakeEmbedder):
    """Embeds a question only while it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.may.set()

    async def embed(self, texts: Sequence[str]) -> Vectors:
        await self.may.wait()
        return await super().embed(texts)


async def test_leading_candidates_are_brought_while_the_question_is_still_being_decided(tmp_path: Path) -> None:
    embedder = SlowEmbedder()
    async with shelved(tmp_path, "expenses", "lease", "travel", embedder=embedder) as running:
        embedder.may.clear()
        asking = asyncio.create_task(running.ask("All about lease."))
        await eventually(lambda: "lease" in running.in_ram())
        embedder.may.set()
        answer = (await asking)["headers"]
        assert (answer["x-document-id"], answer["x-cache-tier"]) == ("lease", "ram")


async def test_candidates_of_an_ambiguous_question_are_brought_and_forgotten_after_a_while(tmp_path: Path) -> None:
    async with shelved(tmp_path, "rent", "loan", "mileage") as running:
        await running.json("POST", "/v1/chat/completions", json=_question("rent or loan?"), status=409)
        await eventually(lambda: running.in_ram() == {"rent", "loan"})
        running.clock.now += prefetcher.HINTED_S + 1
        running.host.restart()
        await running.planned()
        assert running.in_ram() == {"z"}
        assert len(running.server.tried) == 3


async def test_nothing_is_brought_while_a_question_waits_for_its_first_token(tmp_path: Path) -> None:
    async with shelved(tmp_path, "a", "b") as running:
        gate = Gate(running.workers[0])
        asking = asyncio.create_task(running.ask(QUESTION, document="a"))
        await gate.reached()
        await running.json("PATCH", "/v1/documents/b", json={"pinned": True})
        await asyncio.sleep(5 * prefetcher.LOOK_EVERY_S)
        assert running.server.tried == []
        gate.open()
        await asking
        await eventually(lambda: "b" in running.in_ram())


@pytest.mark.parametrize("pinned", [True, False])
async def test_what_could_not_be_brought_is_not_tried_again_at_once(tmp_path: Path, pinned: bool) -> None:
    async with shelved(tmp_path, "rent", "loan") as running:
        running.server.fails = True
        if pinned:
            await running.json("PATCH", "/v1/documents/rent", json={"pinned": True})
        else:
            await running.json("POST", "/v1/chat/completions", json=_question("rent or loan?"), status=409)
        await eventually(lambda: running.salt("rent") in running.server.tried)
        running.server.fails = False
        await running.planned()
        assert running.server.tried.count(running.salt("rent")) == 1
        if pinned:
            running.clock.now += prefetcher.RETRY_S
            await eventually(lambda: "rent" in running.in_ram())


@pytest.mark.parametrize("pinned", [True, False])
async def test_what_can_not_be_restored_is_read_again_for_a_pin_but_not_for_a_guess(tmp_path: Path, pinned: bool) -> None:
    async with shelved(tmp_path, "a", "b", follows=True, disk=Disk(scrub_mib_per_s=0)) as running:
        salt, (worker,) = running.salt("b"), running.workers
        running.host.damaged.add(key_of(max(running.host.disk[salt], key=len)))
        if pinned:
            await running.json("PATCH", "/v1/documents/b", json={"pinned": True})
            await eventually(lambda: "b" in running.in_ram())
        else:
            await running.ask(QUESTION, document="a")
            await eventually(lambda: salt in running.server.tried)
            await running.planned()
        assert pinned == any(body["cache_salt"] == salt for body in worker.bodies)


@pytest.mark.parametrize("why", ["a part of it is not on the disk", "it has expired", "it was removed"])
async def test_what_is_no_candidate(tmp_path: Path, why: str) -> None:
    async with shelved(tmp_path, "a", "b", follows=True) as running:
        salt = running.salt("b")
        if why == "it was removed":
            await running.json("DELETE", "/v1/documents/b")
        elif why == "it has expired":
            await running.json("PATCH", "/v1/documents/b", json={"ttl_s": 10})
            running.clock.now += 11
        else:
            chunk = max(running.host.disk[salt], key=len)
            running.host.disk[salt].remove(chunk)
            running.ledger.disk("kv").removed(Salt(salt), key_of(chunk))
        await running.ask(QUESTION, document="a")
        await running.planned()
        assert salt not in running.server.tried


async def test_what_another_engine_read_is_no_candidate(tmp_path: Path) -> None:
    store, host = MemoryStore(), TrueHost()
    async with Rig(tmp_path, store=store, hosts=[host]).running() as first:
        await first.add(text("a"), id="a", pinned=True)
        old = first.salt("a")
    host.restart()
    async with Rig(tmp_path, store=store, hosts=[host], versions={"vllm": "1", "lmcache": "0"}).running() as second:
        await eventually(lambda: second.salt("a") != old and second.in_ram() == {"a"})
        assert old not in second.server.tried


async def test_planned_moves_are_the_operators_business(tmp_path: Path) -> None:
    """Their reasons may name another tenant's documents."""
    async with shelved(tmp_path, "a", "b", owner="*", follows=True) as running:
        other = await running.new_key("tenant-b")
        running.server.may.clear()
        with capture_logs() as logs:
            await running.ask(QUESTION, document="a")
            await eventually(lambda: running.server.tried)
            assert (await running.json("GET", "/v1/jobs", key=other))["data"] == []
            assert (await running.json("GET", "/v1/jobs"))["data"] == []
            # Asked for meanwhile, it is a job of its own.
            job = await running.json("POST", "/v1/documents/b/warm", json={}, status=202, key=other)
            assert job["why"] == "asked for"
            running.server.may.set()
            assert await running.finished(job["id"], key=other) == "done"
            await eventually(lambda: any(entry["event"] == "prefetched" for entry in logs))
        entry = next(entry for entry in logs if entry["event"] == "prefetched")
        assert (entry["document"], entry["done"]) == ("b", True)
        assert entry["why"].startswith("followed */a ")


async def test_what_left_ram_unasked_was_brought_in_vain_and_is_left_alone(tmp_path: Path) -> None:
    async with shelved(tmp_path, "a", "b", follows=True) as running:
        await running.ask(QUESTION, document="a")
        await eventually(lambda: "b" in running.in_ram())
        running.host.forget_ram(running.salt("b"))
        await running.ask(QUESTION, document="a")
        await running.planned()
        assert (await running.prefetches())["in_vain"] == 1
        assert running.server.tried.count(running.salt("b")) == 1


async def test_what_was_lost_with_all_of_ram_was_not_brought_in_vain(tmp_path: Path) -> None:
    async with shelved(tmp_path, "a", "b", follows=True) as running:
        await running.ask(QUESTION, document="a")
        await eventually(lambda: "b" in running.in_ram())
        running.host.restart()
        running.ledger.forget_ram(running.host.name)
        await running.ask(QUESTION, document="a")
        await eventually(lambda: "b" in running.in_ram())
        assert running.server.tried.count(running.salt("b")) == 2
        assert await running.prefetches() == {}


def _question(content: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


async def test_a_question_that_comes_while_its_document_is_brought_shows_that_it_was_not_in_vain(tmp_path: Path) -> None:
    async with shelved(tmp_path, "a", "b", follows=True) as running:
        running.server.may.clear()
        await running.ask(QUESTION, document="a")
        await eventually(lambda: running.salt("b") in running.server.tried)
        await running.ask(QUESTION, document="b")
        running.server.may.set()
        await eventually(lambda: "b" in running.in_ram())
        await running.json("POST", "/v1/documents/b/evict", json={"tier": "ram"}, status=202)
        await eventually(lambda: "b" not in running.in_ram())
        await running.planned()
        assert await running.prefetches() == {"used": 1}
        await running.ask(QUESTION, document="a")
        await eventually(lambda: "b" in running.in_ram())
