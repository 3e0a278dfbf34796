"""The disk's budget where something fails: readings that break off, a KV server that is down, a disk nobody can look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.ingestion.ingestion import ATTEMPTS
from gateway.sections import Ingestion
from router.documents import Version
from router.errors import EngineFailed
from tests.fakes.engine import CHUNK, FakeKVServer, Gate
from tests.fakes.gateway import RESERVE, eventually
from tests.fakes.store import MemoryStore
from tests.gateway.tiers import SIZE, TieredGateway, budget, size_bytes, text

QUESTION = "What is it about?"
SLOW = Ingestion(segment_target_s=1e-6, answer_reserve_tokens=RESERVE)
"""Reads a chunk at a time."""


class BrokenServer(FakeKVServer):
    """Can't tell the free space of its disk while it is `broken`."""

    broken = False

    async def free_bytes(self) -> int | None:
        if self.broken:
            raise OSError("the folder is gone")
        return await super().free_bytes()


class CountedStore(MemoryStore):
    updates = 0

    async def update_version(self, version: Version) -> None:
        self.updates += 1
        await super().update_version(version)


async def add(running: TieredGateway, *names: str, **fields: Any) -> list[Any]:
    return [await running.add(text(name), id=name, **fields) for name in names]


async def waits(running: TieredGateway, job: str, why: str) -> None:
    async def so() -> bool:
        shown = await running.json("GET", f"/v1/jobs/{job}")
        return shown["state"] == "pending" and why in (shown["error"] or "")

    await eventually(so)


async def test_what_a_reading_that_failed_left_behind_counts_and_goes_first(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(3), ingestion=SLOW).running() as running:
        await add(running, *"ab")
        worker, calls = running.workers[0], 0

        async def fail_in_the_middle(_: int) -> None:
            nonlocal calls
            if len(worker.answering["prompt"]) == 8 * CHUNK:
                calls += 1
                raise EngineFailed("It broke off.")

        worker.before_delta = fail_in_the_middle
        (failed,) = await add(running, "c", ready=False)
        assert await running.finished(failed["job"]["id"]) == "failed"
        assert calls == ATTEMPTS
        assert running.ledger.disk("kv").total_bytes == running.host.disk_bytes == 2 * SIZE + 7 * 1000
        worker.before_delta = None
        await running.ask(QUESTION, document="a")
        await add(running, "d")
        assert running.host.peak_bytes <= 3 * SIZE
        assert running.on_disk() == set("ad")


async def test_where_nothing_can_be_evicted_a_reading_waits_and_a_question_is_answered(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(3)).running() as running:
        await add(running, *"abcd")
        running.cool()
        running.kv_server.problem = "is down"
        (waiting,) = await add(running, "e", ready=False)
        await waits(running, waiting["job"]["id"], "is down")
        assert (await running.ask(QUESTION, document="a"))["headers"]["x-cache-tier"] == "none"
        assert running.on_disk(whole=False) == set("bcd")
        running.kv_server.problem = None
        assert await running.finished(waiting["job"]["id"]) == "ready"
        assert running.host.peak_bytes <= 3 * SIZE


async def test_where_a_disk_can_not_be_looked_at_nothing_is_written_and_everything_answered(tmp_path: Path) -> None:
    running = TieredGateway(tmp_path, disk=budget(3))
    server = BrokenServer(running.host)
    running.kv_servers[:] = [server]
    async with running.running():
        await add(running, *"abc")
        gate = Gate(running.workers[0], lambda body: body["max_tokens"] == 1)
        (first,) = await add(running, "d", ready=False)
        await gate.reached()
        (second,) = await add(running, "e", ready=False)
        server.broken = True
        gate.open()
        assert await running.finished(first["job"]["id"]) == "ready"  # had its room before
        await waits(running, second["job"]["id"], "the folder is gone")
        running.cool()
        written = len(running.host.stored)
        assert (await running.ask(QUESTION, document="a"))["headers"]["x-cache-tier"] == "none"
        assert len(running.host.stored) == written
        error = (await running.json("POST", "/v1/documents", json={"text": text("f"), "id": "f"}, status=507))["error"]
        assert "the folder is gone" in error["message"]
        server.broken = False
        assert await running.finished(second["job"]["id"]) == "ready"
        assert running.host.peak_bytes <= 3 * SIZE


async def test_a_reading_that_waits_for_room_outlives_a_database_that_is_away(tmp_path: Path) -> None:
    store = CountedStore()
    async with TieredGateway(tmp_path, disk=budget(1), store=store).running() as running:
        await add(running, "a")
        running.kv_server.problem = "is down"
        (waiting,) = await add(running, "b", ready=False)
        await waits(running, waiting["job"]["id"], "is down")
        store.fault, updates = "The disk is full.", store.updates
        await eventually(lambda: store.updates > updates)  # it is looked for room again and again, and said why there is none
        store.fault, running.kv_server.problem = None, None
        assert await running.finished(waiting["job"]["id"]) == "ready"
        assert running.on_disk(whole=False) == {"b"}


async def test_documents_are_taken_in_while_others_are_read_and_wait_for_their_room(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(2), workers=3).running() as running:
        gates = [Gate(worker) for worker in running.workers]
        jobs = [(await add(running, name, ready=False))[0]["job"]["id"] for name in "abcd"]
        await eventually(lambda: sum(len(gate.held) for gate in gates) >= 2)
        await waits(running, jobs[2], "being read")
        for gate in gates:
            gate.open()
        assert [await running.finished(job) for job in jobs] == ["ready"] * 4
        assert running.on_disk(whole=False) == set("cd")
        assert running.host.peak_bytes <= 2 * SIZE


async def test_a_document_that_waits_for_room_does_not_hold_up_one_that_fits(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(4)).running() as running:
        await add(running, *"ab", pinned=True)
        await add(running, "c")
        large = text("large") * 2
        assert SIZE < size_bytes(large) <= 2 * SIZE
        running.workers[0].problem = "is away"
        await eventually(running.is_out)
        waiting = await running.add(large, id="large", ready=False)
        await running.json("PATCH", "/v1/documents/c", json={"pinned": True})
        (small,) = await add(running, "d", ready=False)
        running.workers[0].problem = None
        await waits(running, waiting["job"]["id"], "pinned")
        assert await running.finished(small["job"]["id"]) == "ready"
        await running.json("DELETE", "/v1/documents/a")
        assert await running.finished(waiting["job"]["id"]) == "ready"
        assert running.on_disk(whole=False) == {"b", "c", "large"}
        assert running.host.peak_bytes <= 4 * SIZE
