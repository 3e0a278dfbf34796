"""How a document is read: in growing prefixes, told as it goes, letting live questions pass, verified at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Ingestion
from tests.fakes.engine import CHUNK, Gate
from tests.fakes.gateway import RESERVE, Gateway, eventually, sse

LEASE = "# Lease\n\nThe deposit is 2,400 euros."
LONG = "# Long\n\n" + "One sentence after another. " * 20
QUESTION = "What is the deposit?"


def is_reading(body: dict[str, Any]) -> bool:
    return int(body["max_tokens"]) == 1


def is_question(body: dict[str, Any]) -> bool:
    return not is_reading(body)


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Gateway]:
    """Segments of one chunk: the target is shorter than any takes."""
    settings = Ingestion(segment_target_s=1e-6, answer_reserve_tokens=RESERVE)
    async with Gateway(tmp_path, ingestion=settings).running() as running:
        yield running


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Gateway]:
    """Readings that would let a waiting question pass for longer than any test lasts. Holds one document."""
    settings = Ingestion(segment_target_s=60, answer_reserve_tokens=RESERVE)
    async with Gateway(tmp_path, ingestion=settings).running() as running:
        await running.add(LEASE, id="lease")
        yield running


async def follow(gateway: Gateway, job: str, started: asyncio.Event) -> list[tuple[str, Any]]:
    """The events of a job to their end; `started` is set at the first."""
    text = ""
    async with gateway.request("GET", f"/v1/jobs/{job}/events") as response:
        async for line in response.content:
            text += line.decode()
            started.set()
    return sse(text)


# --- progress


async def test_progress_grows_by_whole_chunks_and_ends_with_ready(slow: Gateway) -> None:
    gate, started = Gate(slow.workers[0]), asyncio.Event()
    added = await slow.add(LONG, id="long", ready=False)
    following = asyncio.create_task(follow(slow, added["job"]["id"], started))
    await asyncio.wait_for(started.wait(), 5)
    gate.open()
    events = await following
    assert {name for name, _ in events[:-1]} == {"progress"}
    assert events[-1][0] == "ready"
    read = [job["read_tokens"] for _, job in events]
    assert read == sorted(read)
    assert all(tokens % CHUNK == 0 for tokens in read)
    assert read[-1] == added["prefix_tokens"]
    assert len(set(read)) > 3
    assert all(job["id"] == added["job"]["id"] and job["prefix_tokens"] == added["prefix_tokens"] for _, job in events)
    assert {job["state"] for _, job in events} <= {"pending", "reading", "ready"}


async def test_a_job_can_be_looked_up_at_any_time(slow: Gateway) -> None:
    gate = Gate(slow.workers[0], lambda body: len(body["prompt"]) > 2 * CHUNK)
    added = await slow.add(LONG, id="long", ready=False)
    await gate.reached()
    job = await slow.json("GET", f"/v1/jobs/{added['job']['id']}")
    assert (job["object"], job["document"], job["state"]) == ("job", "long", "reading")
    assert (job["read_tokens"], job["prefix_tokens"], job["error"]) == (2 * CHUNK, added["prefix_tokens"], None)
    assert (await slow.json("GET", "/v1/documents/long"))["job"] == job
    refused = await slow.ask(QUESTION, document="long", status=409)
    assert (refused["error"]["code"], refused["error"]["job"]) == ("document_not_ready", job["id"])
    assert f"{job['read_tokens']} of {job['prefix_tokens']} tokens" in refused["error"]["message"]
    gate.open()
    assert await slow.finished(job["id"]) == "ready"
    ended = await slow.json("GET", f"/v1/jobs/{job['id']}")
    assert (ended["state"], ended["read_tokens"]) == ("ready", added["prefix_tokens"])


async def test_the_events_of_a_job_that_has_ended_are_its_end(slow: Gateway) -> None:
    added = await slow.add(LEASE, id="lease")
    assert [name for name, _ in await slow.events(added["job"]["id"])] == ["ready"]


async def test_a_job_whose_document_is_replaced_is_gone_and_read_no_further(slow: Gateway) -> None:
    gate = Gate(slow.workers[0], lambda body: len(body["prompt"]) > 2 * CHUNK)
    added = await slow.add(LONG, id="lease", ready=False)
    held, started = await gate.reached(), asyncio.Event()
    following = asyncio.create_task(follow(slow, added["job"]["id"], started))
    await asyncio.wait_for(started.wait(), 5)
    newer = await slow.add(LEASE, id="lease", ready=False)
    assert (await following)[-1] == ("gone", {})
    gate.open()
    assert await slow.finished(newer["job"]["id"]) == "ready"
    superseded = [body for body in slow.workers[0].bodies if body["cache_salt"] == held["cache_salt"]]
    assert superseded[-1] is held
    assert len(held["prompt"]) < added["prefix_tokens"]
    assert (await slow.ask(QUESTION, document="lease"))["choices"]


# --- what is sent


async def test_segments_are_growing_prefixes_that_are_kept_and_a_question_verifies_them(slow: Gateway) -> None:
    added = await slow.add(LONG, id="long")
    *segments, verification = slow.workers[0].bodies
    assert [len(body["prompt"]) for body in segments] == list(range(CHUNK, added["prefix_tokens"] + 1, CHUNK))
    for body in segments:
        assert body["prompt"] == segments[-1]["prompt"][: len(body["prompt"])]
        assert body["kv_transfer_params"] == {"lmcache.max_offload_tokens": len(body["prompt"])}
    assert verification["prompt"][: added["prefix_tokens"]] == segments[-1]["prompt"]
    assert len(verification["prompt"]) > added["prefix_tokens"]
    assert verification["kv_transfer_params"] == {"lmcache.max_offload_tokens": added["prefix_tokens"]}
    assert {body["max_tokens"] for body in slow.workers[0].bodies} == {1}
    assert len({body["cache_salt"] for body in slow.workers[0].bodies}) == 1


async def test_a_question_has_the_prefix_that_was_read(slow: Gateway) -> None:
    added = await slow.add(LONG, id="long")
    await slow.ask(QUESTION, document="long")
    *_, verification, question = slow.workers[0].bodies
    assert question["prompt"][: added["prefix_tokens"]] == verification["prompt"][: added["prefix_tokens"]]
    assert question["cache_salt"] == verification["cache_salt"]
    assert question["kv_transfer_params"] == {"lmcache.max_offload_tokens": added["prefix_tokens"]}


# --- beside live questions


async def test_questions_are_answered_while_a_document_is_read(patient: Gateway) -> None:
    gate = Gate(patient.workers[0], is_reading)
    added = await patient.add(LONG, id="long", ready=False)
    await gate.reached()
    assert (await patient.ask(QUESTION, document="lease"))["choices"]
    assert (await patient.json("GET", f"/v1/jobs/{added['job']['id']}"))["read_tokens"] == 0
    gate.open()
    assert await patient.finished(added["job"]["id"]) == "ready"


async def test_a_readings_next_segment_lets_a_waiting_question_pass(patient: Gateway) -> None:
    worker = patient.workers[0]
    reading, question = Gate(worker, is_reading), Gate(worker, is_question)
    added = await patient.add(LONG, id="long", ready=False)
    segment = await reading.reached()
    asking = asyncio.create_task(patient.ask(QUESTION, document="lease"))
    asked = await question.reached()
    reading.open()

    async def first_segment_is_done() -> bool:
        return bool((await patient.json("GET", f"/v1/jobs/{added['job']['id']}"))["read_tokens"] == len(segment["prompt"]))

    await eventually(first_segment_is_done)
    for _ in range(5):
        await patient.json("GET", "/health/ready")
    assert worker.bodies[-2:] == [segment, asked]
    question.open()
    assert (await asking)["choices"]
    assert await patient.finished(added["job"]["id"]) == "ready"
    assert all(is_reading(body) for body in worker.bodies[worker.bodies.index(asked) + 1 :])


async def test_a_question_that_waits_for_long_does_not_stop_a_reading(tmp_path: Path) -> None:
    settings = Ingestion(segment_target_s=0.02, answer_reserve_tokens=RESERVE)
    async with Gateway(tmp_path, ingestion=settings).running() as gateway:
        await gateway.add(LEASE, id="lease")
        question = Gate(gateway.workers[0], is_question)
        asking = asyncio.create_task(gateway.ask(QUESTION, document="lease"))
        await question.reached()
        await gateway.add("# Short\n\nWords.", id="short")
        question.open()
        assert (await asking)["choices"]


async def test_one_worker_reads_one_document_at_a_time_the_oldest_first(slow: Gateway) -> None:
    gate = Gate(slow.workers[0])
    jobs = [(await slow.add(f"# {name}\n\n{LONG}", id=name, ready=False))["job"]["id"] for name in ("c", "a", "b")]
    await gate.reached()
    gate.open()
    assert [await slow.finished(job) for job in jobs] == ["ready"] * 3
    salts = [body["cache_salt"] for body in slow.workers[0].bodies]
    assert len(list(dict.fromkeys(salts))) == 3
    assert salts == sorted(salts, key=salts.index)
    documents = [(await slow.json("GET", f"/v1/jobs/{job}"))["document"] for job in jobs]
    assert documents == ["c", "a", "b"]


async def test_two_workers_read_two_documents_at_once(tmp_path: Path) -> None:
    async with Gateway(tmp_path, workers=2).running() as gateway:
        gates = [Gate(worker, is_reading) for worker in gateway.workers]
        # Which worker takes a document is a matter of its hash: enough of them, and both are busy.
        jobs = [(await gateway.add(f"# {number}", id=f"n-{number}", ready=False))["job"]["id"] for number in range(2)]
        await eventually(lambda: sum(len(gate.held) for gate in gates) == 2)
        assert len({body["cache_salt"] for gate in gates for body in gate.held}) == 2
        for gate in gates:
            gate.open()
        assert [await gateway.finished(job) for job in jobs] == ["ready", "ready"]
