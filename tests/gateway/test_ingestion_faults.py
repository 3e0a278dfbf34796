"""What becomes of a reading when a worker, the KV server or the database is away for a while, or for good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.ingestion.ingestion import ATTEMPTS
from gateway.sections import Ingestion
from router.errors import EngineFailed, EngineUnavailable
from tests.fakes.engine import CHUNK, FakeWorker, Fault, Gate
from tests.fakes.gateway import RESERVE, Gateway, eventually
from tests.fakes.store import MemoryStore

LEASE = "# Lease\n\nThe deposit is 2,400 euros."
QUESTION = "What is the deposit?"


def slow(folder: Path, **more: Any) -> Gateway:
    """A gateway that reads a chunk at a time."""
    return Gateway(folder, ingestion=Ingestion(segment_target_s=1e-6, answer_reserve_tokens=RESERVE), **more)


def dies(worker: FakeWorker, tokens: int) -> Any:
    """A hook: the worker breaks off the first request of more than `tokens`, and is then away."""

    async def before_delta(_: int) -> None:
        if len(worker.answering["prompt"]) > tokens:
            worker.before_delta = None
            worker.problem = "is gone"
            raise EngineFailed("It broke off.")

    return before_delta


async def broken(gateway: Gateway, then: Callable[[], None]) -> None:
    """The database is away until a reading has needed it after `then` was done: the reaper asks once, a reading again and again."""
    store = gateway.store
    assert isinstance(store, MemoryStore)
    store.fault, before = "The disk is full.", store.refused
    then()
    await eventually(lambda: store.refused >= before + 2)
    store.fault = None


async def test_a_reading_waits_for_a_worker(gateway: Gateway) -> None:
    gateway.workers[0].problem = "is not up yet"
    await eventually(lambda: _unavailable(gateway))
    added = await gateway.add(LEASE, id="lease", ready=False)
    assert gateway.workers[0].bodies == []
    gateway.workers[0].problem = None
    assert await gateway.finished(added["job"]["id"]) == "ready"


@pytest.mark.parametrize("at", ["in the middle", "at the verification"])
async def test_a_reading_goes_on_when_its_worker_is_back(tmp_path: Path, at: str) -> None:
    async with slow(tmp_path).running() as gateway:
        worker = gateway.workers[0]
        tokens = (await gateway.add(LEASE, id="measured"))["prefix_tokens"]
        read = worker.prefilled_tokens
        worker.before_delta = dies(worker, 3 * CHUNK if at == "in the middle" else tokens)
        added = await gateway.add(LEASE, id="lease", ready=False)
        await eventually(lambda: _unavailable(gateway))
        assert (await gateway.json("GET", "/v1/documents/lease"))["job"]["state"] == "reading"
        worker.problem = None
        assert await gateway.finished(added["job"]["id"]) == "ready"
        assert worker.prefilled_tokens == 2 * read


@pytest.mark.parametrize("error", [EngineUnavailable("It can't be reached."), EngineFailed("It broke off.")])
async def test_another_worker_reads_on_where_one_is_lost(tmp_path: Path, error: Exception) -> None:
    async with slow(tmp_path, workers=2).running() as gateway:
        gates = [Gate(worker, lambda body: len(body["prompt"]) > 2 * CHUNK) for worker in gateway.workers]
        added = await gateway.add(LEASE, id="lease", ready=False)
        await eventually(lambda: any(gate.held for gate in gates))
        lost, other = sorted(gateway.workers, key=lambda worker: not worker.bodies)
        lost.problem = "is gone"
        lost.before_delta = None
        lost.faults = [Fault(error)]
        for gate in gates:
            gate.open()
        assert await gateway.finished(added["job"]["id"]) == "ready"
        # The one that is lost may still have finished what it held; what it had stored is not read again.
        assert len(other.bodies[0]["prompt"]) >= 3 * CHUNK
        assert (await gateway.ask(QUESTION, document="lease"))["choices"]


async def test_a_request_that_a_healthy_worker_breaks_off_is_tried_again(gateway: Gateway) -> None:
    gateway.workers[0].faults = [Fault(EngineFailed("It broke off."))]
    await gateway.add(LEASE, id="lease")
    assert (await gateway.ask(QUESTION, document="lease"))["choices"]


async def test_a_document_that_a_healthy_worker_refuses_fails_says_why_and_can_be_posted_again(gateway: Gateway) -> None:
    gateway.workers[0].faults = [Fault(EngineFailed("The worker says: too odd."))] * ATTEMPTS
    added = await gateway.add(LEASE, id="lease", ready=False)
    name, job = (await gateway.events(added["job"]["id"]))[-1]
    assert (name, job["state"], job["error"]) == ("failed", "failed", "The worker says: too odd.")
    shown = await gateway.json("GET", "/v1/documents/lease")
    assert (shown["state"], shown["job"]["error"]) == ("failed", "The worker says: too odd.")
    refused = (await gateway.ask(QUESTION, document="lease", status=409))["error"]
    assert (refused["code"], refused["job"]) == ("document_not_ready", job["id"])
    assert "The worker says: too odd." in refused["message"]
    await gateway.add("# Other\n\nWords.", id="other")
    again = await gateway.add(LEASE, id="lease")
    assert again["job"]["id"] != job["id"]
    assert (await gateway.json("GET", "/v1/documents/lease"))["state"] == "ready"
    assert (await gateway.ask(QUESTION, document="lease"))["choices"]


async def test_a_reading_waits_for_a_kv_server_that_is_down(tmp_path: Path) -> None:
    async with slow(tmp_path).running() as gateway:
        gateway.host.keeps, gateway.kv_server.problem = False, "is down"
        added = await gateway.add(LEASE, id="lease", ready=False)
        await eventually(lambda: _read(gateway, added["job"]["id"], added["prefix_tokens"]))
        job = await gateway.json("GET", f"/v1/jobs/{added['job']['id']}")
        assert job["state"] == "reading"
        # What a store in flight had written is found when it is back.
        gateway.host.keeps = True
        last = gateway.workers[0].bodies[-1]
        for end in range(CHUNK, added["prefix_tokens"] + 1, CHUNK):
            gateway.host.store(last["cache_salt"], tuple(last["prompt"][:end]))
        bodies = len(gateway.workers[0].bodies)
        gateway.kv_server.problem = None
        assert await gateway.finished(added["job"]["id"]) == "ready"
        assert len(gateway.workers[0].bodies) == bodies + 1


async def test_a_reading_goes_on_when_the_database_is_back(tmp_path: Path) -> None:
    async with slow(tmp_path).running() as gateway:
        gate = Gate(gateway.workers[0], lambda body: len(body["prompt"]) > 2 * CHUNK)
        added = await gateway.add(LEASE, id="lease", ready=False)
        await gate.reached()
        await broken(gateway, gate.open)
        assert await gateway.finished(added["job"]["id"]) == "ready"
        await gateway.add("# Other\n\nWords.", id="other")


async def test_a_failure_is_told_once_the_database_is_back(gateway: Gateway) -> None:
    """A full disk fails the reading and the database together."""
    gateway.workers[0].faults = [Fault(EngineFailed("The worker says: too odd."))] * ATTEMPTS
    added = await gateway.add(LEASE, id="lease", ready=False)
    await eventually(lambda: not gateway.workers[0].faults)
    await broken(gateway, lambda: None)
    assert await gateway.finished(added["job"]["id"]) == "failed"
    await gateway.add("# Other\n\nWords.", id="other")


async def _unavailable(gateway: Gateway) -> bool:
    return not await gateway.ready()


async def _read(gateway: Gateway, job: str, tokens: int) -> bool:
    return bool((await gateway.json("GET", f"/v1/jobs/{job}"))["read_tokens"] == tokens)


async def test_a_bug_in_one_reading_leaves_the_others_going(gateway: Gateway) -> None:
    async def bug(_: int) -> None:
        gateway.workers[0].before_delta = None
        raise RuntimeError("nobody thought of this")

    gateway.workers[0].before_delta = bug
    crashed = await gateway.add(LEASE, id="crashed", ready=False)
    await gateway.add("# Policy\n\nMeals are paid up to 40 euros.", id="policy")
    assert (await gateway.ask(QUESTION, document="policy"))["choices"]
    assert (await gateway.json("GET", f"/v1/jobs/{crashed['job']['id']}"))["state"] in ("pending", "reading")
