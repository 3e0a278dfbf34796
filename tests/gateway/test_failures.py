"""What a client sees when workers fail, and what becomes of a question whose client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router.errors import EngineFailed, EngineUnavailable
from tests.fakes.engine import Fault
from tests.fakes.gateway import Gateway, eventually, sse

LEASE = "# Lease\n\nThe deposit is 2,400 euros."


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with two workers, one document read."""
    async with Gateway(tmp_path, workers=2).running() as running:
        await running.add(LEASE, id="lease")
        yield running


def outcomes(gateway: Gateway) -> list[object]:
    """How the questions ended, by their spans."""
    spans = [span for span in gateway.spans.get_finished_spans() if span.name == "kvshelf.question"]
    return [(span.attributes or {}).get("kvshelf.outcome") for span in spans]


async def stream(gateway: Gateway) -> tuple[int, list[Any]]:
    body = {"messages": [{"role": "user", "content": "why?"}], "document": "lease", "stream": True}
    async with gateway.request("POST", "/v1/chat/completions", json=body) as response:
        return response.status, [data for _, data in sse(await response.text())]


def text_of(events: list[Any]) -> str:
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events if "choices" in e)


async def test_without_a_worker_it_is_503_and_ready_says_why(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    gateway.workers[0].problem = "is on fire"
    answer = await gateway.ask("why?", document="lease", status=503)
    assert answer["error"]["code"] == "engine_unavailable"
    assert int(answer["headers"]["retry-after"]) > 0
    report = await gateway.health(status=503)
    assert report["status"] == "unavailable"
    assert "on fire" in report["problems"]["worker worker-1"]
    assert (await gateway.json("GET", "/v1/documents"))["data"][0]["id"] == "lease"


async def test_a_worker_that_recovers_answers_again(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    gateway.workers[0].problem = "is on fire"
    await gateway.ask("why?", document="lease", status=503)
    gateway.workers[0].problem = None
    await eventually(gateway.ready)
    assert (await gateway.ask("why?", document="lease"))["choices"]


@pytest.mark.parametrize("error", [EngineUnavailable("is gone"), EngineFailed("fell over")])
async def test_a_worker_that_fails_before_the_first_token_is_replaced_once(two: Gateway, error: Any) -> None:
    once = [Fault(error)]  # shared: it strikes whichever worker is asked first
    for worker in two.workers:
        worker.bodies.clear()
        worker.faults = once
    status, events = await stream(two)
    assert [len(worker.bodies) for worker in two.workers] == [1, 1]
    assert status == 200
    assert text_of(events) == "It is so."
    assert events[-1] == "[DONE]"


async def test_two_failures_before_the_first_token_are_one_error(two: Gateway) -> None:
    for worker in two.workers:
        worker.faults = [Fault(EngineFailed("fell over"))]
    answer = await two.ask("why?", document="lease", status=502)
    assert answer["error"]["code"] == "engine_failed"
    assert all(not worker.faults for worker in two.workers)


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_failure_after_the_first_token_ends_the_stream_with_one_error_and_no_retry(two: Gateway, at: int) -> None:
    for worker in two.workers:
        worker.bodies.clear()
        worker.faults = [Fault(EngineFailed("broke off", started=True), at=at)]
    status, events = await stream(two)
    assert status == 200
    assert text_of(events) == "".join(two.workers[0].words[:at])
    assert [e["error"]["code"] for e in events if "error" in e] == ["engine_failed"]
    assert "[DONE]" not in events
    assert sum(len(worker.bodies) for worker in two.workers) == 1
    await eventually(lambda: outcomes(two))
    assert outcomes(two) == ["broken_off"]


async def test_an_unstreamed_answer_that_breaks_off_is_502(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    gateway.workers[0].faults = [Fault(EngineFailed("broke off", started=True), at=1)]
    await gateway.ask("why?", document="lease", status=502)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_stops_the_engine(gateway: Gateway, before: int, streamed: bool) -> None:
    await gateway.add(LEASE, id="lease")
    worker = gateway.workers[0]
    aborted = worker.aborted
    reached, forever = asyncio.Event(), asyncio.Event()

    async def hold(number: int) -> None:
        if number == before:
            reached.set()
            await forever.wait()

    worker.before_delta = hold
    body = {"messages": [{"role": "user", "content": "why?"}], "document": "lease", "stream": streamed}
    client = asyncio.create_task(_post(gateway, body))
    await asyncio.wait_for(reached.wait(), 5)
    client.cancel()
    await eventually(lambda: not worker.open, within_s=1)
    assert worker.aborted == aborted + 1
    worker.before_delta = None
    assert (await gateway.ask("why?", document="lease"))["choices"]
    spans = [span for span in gateway.spans.get_finished_spans() if (span.attributes or {}).get("kvshelf.outcome") == "client_gone"]
    assert len(spans) == 1


async def _post(gateway: Gateway, body: dict[str, Any]) -> None:
    async with gateway.request("POST", "/v1/chat/completions", json=body) as response:
        await response.read()
