"""Moves of documents' KV between the tiers: what they do, and how a client follows them as jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.upkeep.moves import REMEMBERED, MoveState
from router.documents import DocumentId, Owner
from router.residency import Tier
from tests.fakes.engine import CHUNK, CHUNK_BYTES, Gate
from tests.fakes.gateway import eventually, sse
from tests.gateway.tiers import TieredGateway, TrueHost, size_bytes, text

QUESTION = "What is it about?"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[TieredGateway]:
    """With document `a`, on its worker's GPU, in RAM and on disk."""
    async with TieredGateway(tmp_path).running() as gateway:
        await gateway.add(text("a"), id="a")
        yield gateway


async def move(
    running: TieredGateway, what: str, document: str = "a", *, status: int = 202, key: str | None = None, **body: Any
) -> Any:
    return await running.json("POST", f"/v1/documents/{document}/{what}", json=body, status=status, key=key)


async def ended(running: TieredGateway, job: Any) -> Any:
    """The job once it ended, from its events."""
    return (await running.events(job["id"]))[-1][1]


async def tiers(running: TieredGateway, document: str = "a") -> dict[tuple[str, str], float]:
    """The share that each tier holds, as the document is shown."""
    shown = (await running.json("GET", f"/v1/documents/{document}"))["tiers"]
    return {(tier["tier"], tier["where"]): tier["share"] for tier in shown}


def read(running: TieredGateway) -> int:
    return sum(worker.prefilled_tokens for worker in running.workers)


async def test_a_document_is_brought_from_disk_to_ram(running: TieredGateway) -> None:
    running.cool()
    assert await tiers(running) == {("disk", "kv"): 1.0}
    before = read(running)
    job = await move(running, "warm")
    assert (job["kind"], job["document"], job["tier"], job["where"], job["why"]) == ("warm", "a", "ram", "kv", "asked for")
    assert (await ended(running, job))["state"] == "done"
    assert await tiers(running) == {("disk", "kv"): 1.0, ("ram", "kv"): 1.0}
    assert read(running) == before
    assert (await running.ask(QUESTION, document="a"))["headers"]["x-cache-tier"] == "ram"


async def test_what_is_nowhere_is_read_again(running: TieredGateway) -> None:
    assert (await ended(running, await move(running, "evict")))["state"] == "done"
    running.cool()
    assert await tiers(running) == {}
    assert (await ended(running, await move(running, "warm", tier="ram")))["state"] == "done"
    assert await tiers(running) == {("gpu", "worker-1"): 1.0, ("disk", "kv"): 1.0, ("ram", "kv"): 1.0}


@pytest.mark.parametrize("gone", [False, True])
async def test_a_document_is_brought_onto_the_gpu_of_the_worker_that_is_named(tmp_path: Path, gone: bool) -> None:
    async with TieredGateway(tmp_path, workers=2).running() as running:
        await running.add(text("a"), id="a")
        home = (await running.ask(QUESTION, document="a"))["headers"]["x-worker"]
        other = "worker-2" if home == "worker-1" else "worker-1"
        if gone:
            await ended(running, await move(running, "evict"))
        running.cool()
        error = (await move(running, "warm", tier="gpu", status=400))["error"]
        assert "worker-1, worker-2" in error["message"]
        job = await move(running, "warm", tier="gpu", worker=other)
        assert (job["tier"], job["where"]) == ("gpu", other)
        assert (await ended(running, job))["state"] == "done"
        assert (await tiers(running))["gpu", other] == 1.0
        answer = await running.ask(QUESTION, document="a")
        assert (answer["headers"]["x-worker"], answer["headers"]["x-cache-tier"]) == (other, "gpu")


async def test_where_there_are_several_hosts_the_one_that_is_named_or_has_most_of_it_is_warmed(tmp_path: Path) -> None:
    hosts = [TrueHost("left"), TrueHost("right")]
    async with TieredGateway(tmp_path, workers=2, hosts=hosts).running() as running:
        await running.add(text("a"), id="a")
        (holder,) = [host.name for host in hosts if host.disk]
        (other,) = {"left", "right"} - {holder}
        running.cool()
        job = await move(running, "warm")
        assert job["where"] == holder
        assert (await ended(running, job))["state"] == "done"
        job = await move(running, "warm", host=other)
        assert (await ended(running, job))["state"] == "done"
        assert {("ram", "left"), ("ram", "right"), ("disk", "left"), ("disk", "right")} <= set(await tiers(running))
        assert "left, right" in (await move(running, "warm", host="middle", status=400))["error"]["message"]
        assert (await ended(running, await move(running, "evict")))["state"] == "done"
        assert {tier for tier, _ in await tiers(running)} == {"gpu"}


@pytest.mark.parametrize(("tier", "left"), [("ram", {"gpu", "disk"}), ("disk", {"gpu", "ram"}), ("all", {"gpu"}), (None, {"gpu"})])
async def test_a_document_is_evicted_from_where_it_is_asked_for(running: TieredGateway, tier: str | None, left: set[str]) -> None:
    job = await (move(running, "evict", tier=tier) if tier else move(running, "evict"))
    assert (job["kind"], job["tier"], job["where"]) == ("evict", tier or "all", None)
    assert (await ended(running, job))["state"] == "done"
    assert {tier for tier, _ in await tiers(running)} == left
    running.workers[0].restart()  # type: ignore[attr-defined]
    answer = await running.ask(QUESTION, document="a")
    assert answer["headers"]["x-cache-tier"] == next((tier for tier in ("ram", "disk") if tier in left), "none")


async def test_what_can_not_be_moved_is_refused_with_words(running: TieredGateway) -> None:
    error = (await move(running, "evict", tier="gpu", status=400))["error"]
    assert "least recently used" in error["message"]
    for body in ({"tier": "disk"}, {"tier": "ram", "worker": "worker-1"}, {"tier": "gpu", "host": "kv"}, {"tiers": "ram"}):
        assert (await move(running, "warm", status=400, **body))["error"]["code"] == "invalid_request"
    assert "worker-1" in (await move(running, "warm", tier="gpu", worker="worker-9", status=400))["error"]["message"]
    await running.json("PATCH", "/v1/documents/a", json={"pinned": True})
    assert "unpin" in (await move(running, "evict", status=409))["error"]["message"]
    assert (await move(running, "warm"))["state"] == "running"
    for what in ("warm", "evict"):
        assert (await move(running, what, "unknown", status=404))["error"]["code"] == "not_found"


async def test_another_tenants_document_and_its_jobs_are_unknown(running: TieredGateway) -> None:
    other = await running.new_key("tenant-b")
    job = await move(running, "warm")
    for what in ("warm", "evict"):
        refused = (await move(running, what, status=404, key=other))["error"]
        unknown = (await move(running, what, "b", status=404, key=other))["error"]
        assert refused["message"].replace("'a'", "'b'") == unknown["message"]
    await running.json("GET", f"/v1/jobs/{job['id']}", status=404, key=other)
    assert (await running.json("GET", "/v1/jobs", key=other))["data"] == []
    may_only_ask = await running.new_key("tenant-a", scopes=("ask",))
    assert (await move(running, "evict", status=403, key=may_only_ask))["error"]["code"] == "forbidden"


async def test_jobs_are_listed_and_followed_until_they_end(running: TieredGateway) -> None:
    await ended(running, await move(running, "evict"))
    running.cool()
    gate = Gate(running.workers[0])
    job = await move(running, "warm")
    await gate.reached()
    listed = (await running.json("GET", "/v1/jobs"))["data"]
    assert [(each["kind"], each["state"]) for each in listed][:2] == [("warm", "running"), ("evict", "done")]
    assert await running.json("GET", f"/v1/jobs/{job['id']}") == listed[0]
    following = asyncio.create_task(running.events(job["id"]))
    await asyncio.sleep(0.02)
    gate.open()
    events = await following
    assert [event for event, _ in events] == ["progress", "done"]
    assert (events[-1][1]["state"], events[-1][1]["error"]) == ("done", None)
    assert await running.events(job["id"]) == events[-1:]


async def test_the_same_move_again_is_the_one_that_is_under_way(running: TieredGateway) -> None:
    await ended(running, await move(running, "evict"))
    running.cool()
    gate = Gate(running.workers[0])
    jobs = await asyncio.gather(*(move(running, "warm") for _ in range(10)))
    assert len({job["id"] for job in jobs}) == 1
    gate.open()
    assert (await ended(running, jobs[0]))["state"] == "done"
    assert len([body for body in running.workers[0].bodies if len(body["prompt"]) == running.version("a").prefix_tokens]) == 2
    assert (await move(running, "warm"))["id"] != jobs[0]["id"]


async def test_a_move_that_fails_says_why(running: TieredGateway) -> None:
    running.kv_server.problem = "is down"
    job = await ended(running, await move(running, "evict"))
    assert (job["state"], job["error"]) == ("failed", "is down")
    assert (await ended(running, await move(running, "warm")))["error"] == "is down"


async def test_a_move_that_meets_a_bug_has_failed(running: TieredGateway) -> None:
    def bug() -> None:
        raise RuntimeError("never thought of")

    running.kv_server.before_delete = bug
    job = await ended(running, await move(running, "evict"))
    assert job["state"] == "failed"
    assert "log" in job["error"]
    assert await tiers(running) == {("gpu", "worker-1"): 1.0, ("disk", "kv"): 1.0, ("ram", "kv"): 1.0}


async def test_what_is_being_read_is_not_evicted_with_the_version_that_answers(running: TieredGateway) -> None:
    old, new = running.salt("a"), text("a") + "More of it. " * 3
    tokens = size_bytes(new) // CHUNK_BYTES * CHUNK
    gate = Gate(running.workers[0], lambda body: len(body["prompt"]) > tokens)
    added = await running.add(new, id="a", ready=False)
    held = await gate.reached()
    assert (await ended(running, await move(running, "evict")))["state"] == "done"
    assert old not in running.host.disk
    assert len(running.host.disk[held["cache_salt"]]) == tokens // CHUNK
    gate.open()
    assert await running.finished(added["job"]["id"]) == "ready"


async def test_an_eviction_waits_for_the_questions_that_use_the_document(running: TieredGateway) -> None:
    """One that its worker has not looked at yet would have everything stored again."""
    gate = Gate(running.workers[0])
    held = asyncio.create_task(running.ask(QUESTION, document="a"))
    await gate.reached()
    job = await move(running, "evict")
    await asyncio.sleep(0.1)
    assert running.on_disk() == {"a"}
    gate.open()
    assert (await held)["headers"]["x-cache-tier"] == "gpu"
    assert (await ended(running, job))["state"] == "done"
    assert running.on_disk(whole=False) == set()


async def test_a_document_that_can_not_answer_yet_can_not_be_moved_to(running: TieredGateway) -> None:
    gate = Gate(running.workers[0])
    added = await running.add(text("b"), id="b", ready=False)
    assert "being read" in (await move(running, "warm", "b", status=409))["error"]["message"]
    assert (await ended(running, await move(running, "evict", "b")))["state"] == "done"
    gate.open()
    assert await running.finished(added["job"]["id"]) == "ready"


async def test_a_document_of_another_engine_is_not_read_under_its_old_name(tmp_path: Path) -> None:
    host = TrueHost()
    async with TieredGateway(tmp_path, hosts=[host]).running() as first:
        await first.add(text("a"), id="a", pinned=True)
        old = first.salt("a")
    host.disk.clear()
    host.restart()
    second = TieredGateway(tmp_path, hosts=[host], store=first.store, versions={"vllm": "1", "lmcache": "0"})
    gate = Gate(second.workers[0])
    async with second.running():
        await gate.reached()
        assert "being read" in (await move(second, "warm", status=409))["error"]["message"]
        gate.open()
        await eventually(lambda: second.on_disk() == {"a"} and second.salt("a") != old)
        assert old not in {body["cache_salt"] for body in second.workers[0].bodies}


async def test_a_move_of_a_document_that_is_removed_is_gone(running: TieredGateway) -> None:
    job = await move(running, "warm")
    await running.json("DELETE", "/v1/documents/a")
    await running.json("GET", f"/v1/jobs/{job['id']}", status=404)


async def test_the_gateway_ends_during_a_move(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path).running() as running:
        await running.add(text("a"), id="a")
        await ended(running, await move(running, "evict"))
        running.cool()
        gate = Gate(running.workers[0])
        job = await move(running, "warm")
        await gate.reached()
        stays = aiohttp.ClientSession()
        headers = {"authorization": f"Bearer {running.key}"}
        followed = await stays.get(f"{running.url}/v1/jobs/{job['id']}/events", headers=headers)
        await followed.content.readline()
        moves = running.moves
    try:
        assert "done" not in [event for event, _ in sse((await followed.read()).decode())]
    finally:
        await stays.close()
    ended_move = moves.get(job["id"])
    assert ended_move is not None
    assert (ended_move.state, ended_move.error) == (MoveState.FAILED, "the gateway ended")
    assert repr(moves) == "<Moves 0 under way>"


async def test_only_so_many_moves_are_remembered_and_all_that_are_under_way(running: TieredGateway) -> None:
    await running.add(text("b"), id="b")
    documents = [running.shelf.catalog.get(Owner("tenant-a"), DocumentId(name)) for name in "ab"]
    first, second = (document for document in documents if document is not None)
    gate = Gate(running.workers[0])
    held = running.moves.warm(first, Tier.GPU)
    await gate.reached()
    for _ in range(REMEMBERED + 5):
        await running.moves.settled(running.moves.evict(second, Tier.RAM))
    assert running.moves.get(held.id) is not None
    gate.open()
    assert (await running.moves.settled(held)).state is MoveState.DONE
    await running.moves.settled(running.moves.evict(second, Tier.RAM))
    assert len(list(running.moves)) == REMEMBERED
    assert running.moves.get(held.id) is None
