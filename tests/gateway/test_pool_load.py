"""What workers have to do for others than this gateway, and what the pool makes of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from backends.base import Load
from gateway.pool import STRIKES, WorkerPool
from router.placement import Costs
from router.residency import Ledger
from tests.gateway.yard import AskedWorker, Yard, checked_yard, version


@pytest.fixture
async def yard() -> Yard:
    return await checked_yard()


async def test_requests_from_elsewhere_send_a_question_to_another_worker(yard: Yard) -> None:
    yard.hold(gpu="a1", ram="a")
    yard.workers["a1"].elsewhere = 1
    assert yard.picked() == "a1"  # nobody has looked yet
    await yard.pool.check()
    assert yard.picked() == "a2"
    yard.workers["a1"].elsewhere = 0
    await yard.pool.check()
    assert yard.picked() == "a1"


async def test_requests_that_wait_there_count_as_those_that_run(yard: Yard) -> None:
    class Waiting(AskedWorker):
        async def load(self) -> Load:
            return Load(0, 1, 0.0)

    idle, busy = AskedWorker("idle"), Waiting("busy")
    pool = WorkerPool([idle, busy], Ledger({"idle": "a", "busy": "a"}), at_once=4)
    await pool.check()
    cheap = Costs(reading_s=0.0)
    pool.costs = cheap
    assert {pool.pick(version(number)).name for number in range(20)} == {"idle"}


async def test_the_gateways_own_requests_are_not_counted_twice(yard: Yard) -> None:
    yard.hold(gpu="a1", ram="a")
    yard.workers["a2"].elsewhere = 3
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(yard.question("a1"))
        await yard.pool.check()
        assert yard.picked(host="a") == "a1"  # 2 before it here, 3 there; counted twice they were 4
    assert yard.picked(host="a") == "a1"


async def test_what_was_asked_from_here_before_hides_nobody_elses_requests(yard: Yard) -> None:
    yard.hold(gpu="a1", ram="a")
    async with yard.question("a1"):
        pass
    yard.workers["a1"].elsewhere = 1
    await yard.pool.check()
    assert yard.picked(host="a") == "a2"


async def test_a_request_that_has_not_reached_its_worker_yet_is_no_negative_load(yard: Yard) -> None:
    yard.hold(gpu="a2", ram="a")
    slot = yard.pool.slot(yard.workers["a1"])
    slot.__enter__()
    await yard.pool.check()
    slot.__exit__(None, None, None)
    assert yard.picked(host="a") == "a2"


async def test_both_kinds_of_requests_are_counted(yard: Yard) -> None:
    yard.hold(gpu="a1", ram="a")
    yard.workers["a1"].elsewhere = 2
    yard.workers["a2"].elsewhere = 2
    await yard.pool.check()
    async with yard.question("a1"):
        assert yard.picked(host="a") == "a2"
        await yard.pool.check()
        assert yard.picked(host="a") == "a2"
    assert yard.picked(host="a") == "a1"


@pytest.mark.parametrize("ends", [True, False])
async def test_a_request_that_comes_or_goes_during_the_look_is_not_taken_for_anothers(yard: Yard, ends: bool) -> None:
    """The worker counts it; the gateway has it only before, or only after."""
    yard.hold(gpu="a1", ram="a")
    worker = yard.workers["a1"]
    worker.may_tell.clear()
    worker.looked.clear()
    worker.elsewhere = 0 if ends else 1  # as if it had come before the worker counted and after the look began
    async with AsyncExitStack() as stack:
        if ends:
            await stack.enter_async_context(yard.question("a1"))
        look = asyncio.create_task(yard.pool.check())
        await worker.looked.wait()
        if ends:
            await stack.aclose()
        else:
            await stack.enter_async_context(yard.question("a1"))
        worker.may_tell.set()
        await look
    assert yard.picked() == "a1"


async def test_what_was_heard_last_holds_while_a_worker_says_nothing_but_not_for_ever(yard: Yard) -> None:
    yard.hold(gpu="a1", ram="a")
    worker = yard.workers["a1"]
    worker.elsewhere = 1
    await yard.pool.check()
    worker.hides_load = True
    await yard.pool.check()
    worker.load_error = ValueError("its metrics make no sense")
    await yard.pool.check()
    assert yard.pool.problems == {}
    assert yard.picked(host="a") == "a2"
    worker.load_error, worker.hides_load = None, False
    await yard.pool.check()
    worker.hides_load = True
    for _ in range(STRIKES):
        assert yard.picked(host="a") == "a2"
        await yard.pool.check()
    assert yard.picked(host="a") == "a1"


async def test_a_worker_that_was_out_has_nothing_to_do_for_others_until_it_says_so(yard: Yard) -> None:
    worker = yard.workers["a1"]
    worker.elsewhere = 1
    await yard.pool.check()
    yard.pool.failed(worker, "is gone")
    worker.hides_load = True
    await yard.pool.check()
    yard.hold(gpu="a1", ram="a")
    assert yard.picked() == "a1"


async def test_a_worker_that_is_out_is_not_asked_for_its_load(yard: Yard) -> None:
    yard.workers["a1"].problem = "is gone"
    await yard.pool.check()
    assert {name: worker.looks for name, worker in yard.workers.items()} == {"a1": 1, "a2": 2, "b1": 2}


async def test_watching_goes_on_asking_for_health_and_load() -> None:
    yard = Yard()
    watching = asyncio.create_task(yard.pool.watch())
    try:
        async with asyncio.timeout(5):
            while min(worker.looks for worker in yard.workers.values()) < 3:
                for worker in yard.workers.values():
                    worker.looked.clear()
                    await worker.looked.wait()
    finally:
        watching.cancel()
    assert yard.pool.healthy == 3
