"""What clients see while every worker is full: who is answered next, who is refused, and how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.sections import Gathering, Queue
from router.errors import EngineFailed
from tests.fakes.engine import CHUNK, FakeWorker, Fault, Gate
from tests.fakes.gateway import Gateway, config, eventually

LEASE = "# Lease\n\nThe deposit is 2,400 euros."
AT_ONCE = 2


class Doors:
    """Each request to the worker waits before its first word until it is let through; readings are let through."""

    def __init__(self, worker: FakeWorker) -> None:
        self.held: list[tuple[str, asyncio.Event]] = []
        """(the question's mark, its door) in the order in which they came."""
        self._worker = worker
        worker.before_delta = self

    async def __call__(self, number: int) -> None:
        body = self._worker.answering
        if number == 0 and body["max_tokens"] > 1:
            door = asyncio.Event()
            self.held.append((str(body["max_tokens"]), door))
            await door.wait()

    def let_through(self, place: int = 0) -> None:
        _, door = self.held[place]
        door.set()

    @property
    def marks(self) -> list[str]:
        return [mark for mark, _ in self.held]


class Full:
    """A gateway whose worker takes two questions at a time, each held; and the key of another tenant, who has a document too."""

    def __init__(self, gateway: Gateway, other: str) -> None:
        self.gateway = gateway
        self.other = other
        self.doors = Doors(gateway.workers[0])
        self.asked: list[asyncio.Task[Any]] = []

    def ask(self, mark: int, **more: Any) -> asyncio.Task[Any]:
        """`mark` tells the question at the worker: it is how long its answer may be."""
        task = asyncio.create_task(self.gateway.ask("why?", **{"document": "lease", "max_tokens": mark, **more}))
        self.asked.append(task)
        return task

    async def waiting(self, count: int) -> None:
        """Return once so many questions wait."""

        async def are() -> bool:
            return f"kvshelf_queue_length {float(count)}" in (await self.gateway.metrics()).splitlines()

        await eventually(are)

    async def asked_the_worker(self, mark: str) -> None:
        await eventually(lambda: mark in self.doors.marks)


@asynccontextmanager
async def full(tmp_path: Path, *, workers: int = 1, **changes: Any) -> AsyncIterator[Full]:
    engine = replace(config(tmp_path).engine, at_once=AT_ONCE)
    async with Gateway(tmp_path, workers=workers, engine=engine, **changes).running() as gateway:
        await gateway.add(LEASE, id="lease")
        there = Full(gateway, await gateway.new_key("tenant-b"))
        await gateway.add(LEASE, id="lease", key=there.other)
        try:
            yield there
        finally:
            for task in there.asked:
                task.cancel()
            await asyncio.gather(*there.asked, return_exceptions=True)
            await there.waiting(0)
            await eventually(lambda: not any(worker.open for worker in gateway.workers))


async def test_a_tenant_with_fifty_questions_does_not_keep_another_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.asking.ticket.STARTING_S", 0.001)  # the first tokens of those held are taken to be long in coming
    async with full(tmp_path, queue=Queue(max_waiting=100)) as there:
        for number in range(50):
            there.ask(10 + number)
        await there.waiting(50 - AT_ONCE)
        assert len(there.doors.held) == AT_ONCE
        there.ask(90, key=there.other)
        await there.asked_the_worker("90")  # no question of the other's had to end for it
        there.ask(91, key=there.other)
        there.ask(92, key=there.other)
        await there.waiting(50 - AT_ONCE + 2)
        for number in range(24):  # of the 48 others that came before them
            place = [place for place, mark in enumerate(there.doors.marks) if mark < "90"][number]
            there.doors.let_through(place)
            await eventually(lambda number=number: len(there.doors.held) >= AT_ONCE + 1 + number)  # type: ignore[misc]
            if {"91", "92"} & set(there.doors.marks):
                break
        else:
            raise AssertionError("the other tenant's next question waits for all of them")


async def test_a_reading_under_way_changes_nothing_of_it(tmp_path: Path) -> None:
    async with full(tmp_path, queue=Queue(max_waiting=100)) as there:
        for number in range(20):
            there.ask(10 + number)
        await there.waiting(20 - AT_ONCE)
        gate = Gate(there.gateway.workers[0], lambda body: body["max_tokens"] == 1)
        await there.gateway.add("# Other\n\n" + "word " * 20 * CHUNK, id="other", ready=False)
        await gate.reached()  # it is read although questions have all slots
        there.ask(90, key=there.other)
        await there.asked_the_worker("90")
        gate.open()


async def test_a_question_that_waited_says_how_long(tmp_path: Path) -> None:
    async with full(tmp_path) as there:
        asked = [there.ask(10 + number) for number in range(AT_ONCE + 1)]
        await there.waiting(1)
        there.doors.let_through()
        await eventually(lambda: len(there.doors.held) == AT_ONCE + 1)
        for number in range(AT_ONCE + 1):
            there.doors.let_through(number)
        answers = await asyncio.gather(*asked)
        assert ["x-queue-ms" in answer["headers"] for answer in answers].count(True) == 1
        assert 'kvshelf_queue_wait_seconds_count{kvshelf_outcome="served"} 1.0' in await there.gateway.metrics()


async def test_the_queues_limit_is_a_503_at_once(tmp_path: Path) -> None:
    async with full(tmp_path, queue=Queue(max_waiting=1, max_share=1.0)) as there:
        for number in range(AT_ONCE + 1):
            there.ask(10 + number)
        await there.waiting(1)
        there.ask(90, key=there.other)
        await there.asked_the_worker("90")
        refused = await there.gateway.ask("why?", document="lease", key=there.other, status=503)
        assert (refused["error"]["code"], refused["error"]["type"]) == ("queue_full", "engine_error")
        assert int(refused["headers"]["retry-after"]) >= 1


async def test_a_tenants_share_of_the_queue_is_a_429_at_once_and_others_may_wait(tmp_path: Path) -> None:
    async with full(tmp_path, queue=Queue(max_waiting=4, max_share=0.5)) as there:
        for number in range(AT_ONCE + 2):
            there.ask(10 + number)
        await there.waiting(2)
        refused = await there.gateway.ask("why?", document="lease", status=429)
        assert (refused["error"]["code"], refused["error"]["type"]) == ("queue_share_full", "rate_limit_error")
        assert int(refused["headers"]["retry-after"]) >= 1
        for number in range(2):
            there.ask(90 + number, key=there.other)
        await there.waiting(3)
        await there.asked_the_worker("90")


async def test_the_deadline_is_a_503(tmp_path: Path) -> None:
    async with full(tmp_path, queue=Queue(max_wait_s=0.05)) as there:
        for number in range(AT_ONCE):
            there.ask(10 + number)
        await eventually(lambda: len(there.doors.held) == AT_ONCE)
        refused = await there.gateway.ask("why?", document="lease", status=503)
        assert refused["error"]["code"] == "queue_timeout"
        assert "queue.max_wait_s" in refused["error"]["message"]


async def test_a_client_that_leaves_the_queue_is_never_asked_for(tmp_path: Path) -> None:
    async with full(tmp_path) as there:
        for number in range(AT_ONCE):
            there.ask(10 + number)
        await eventually(lambda: len(there.doors.held) == AT_ONCE)
        left = there.ask(20)
        await there.waiting(1)
        after = there.ask(21)
        await there.waiting(2)
        left.cancel()
        await there.waiting(1)
        there.doors.let_through()
        await there.asked_the_worker("21")
        assert "20" not in there.doors.marks
        there.doors.let_through(AT_ONCE)
        assert (await after)["choices"]
        spans = there.gateway.spans.get_finished_spans()
        assert [(span.attributes or {}).get("kvshelf.outcome") for span in spans].count("client_gone") == 1


async def test_a_question_whose_worker_fails_need_not_wait_for_its_turn_again(tmp_path: Path) -> None:
    async with full(tmp_path, workers=2) as there:
        one, two = there.doors, Doors(there.gateway.workers[1])
        for number in range(2 * AT_ONCE + 3):
            there.ask(10 + number)
        await there.waiting(3)
        there.gateway.workers[0].faults = [Fault(EngineFailed("It fell over."))]
        one.let_through()  # whoever has its slot then meets the fault, and is moved to the other worker, which is full
        await eventually(lambda: (len(one.held), len(two.held)) == (AT_ONCE + 1, AT_ONCE + 1))
        assert "kvshelf_retries_total 1.0" in await there.gateway.metrics()


async def test_parts_of_a_question_over_several_documents_wait_like_others(tmp_path: Path) -> None:
    async with full(tmp_path, gathering=Gathering(max_documents=3, part_tokens=50)) as there:
        await there.gateway.add("# Manual\n\nPress the green button.", id="manual")
        await there.gateway.add("# Policy\n\nMeals are paid.", id="policy")
        whole = there.ask(60, document=None, documents=["lease", "manual", "policy"])
        await there.waiting(1)
        assert there.doors.marks == ["50", "50"]
        for number, mark in enumerate(("50", "50", "50", "60")):
            await eventually(lambda number=number: len(there.doors.held) > number)  # type: ignore[misc]
            assert there.doors.marks[number] == mark
            there.doors.let_through(number)
        assert len((await whole)["sources"]) == 3
