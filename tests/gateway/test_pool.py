"""The pool: who gets a question, given what is held, and who is asked no more."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gateway.pool import STRIKES, WorkerPool
from router.placement import Costs
from router.residency import Ledger
from tests.gateway.yard import ALL, HOSTS, KEYS, VERSION, AskedWorker, Yard, checked_yard


@pytest.fixture
async def yard() -> Yard:
    return await checked_yard()


# --- what is held


async def test_a_question_goes_where_its_document_is_on_the_gpu(yard: Yard) -> None:
    for name in HOSTS:
        yard.hold(gpu=name)
        assert yard.picked() == name
        yard.ledger.forget_worker(name)


@pytest.mark.parametrize("tier", ["ram", "disk"])
async def test_a_question_goes_to_the_host_that_has_a_copy(yard: Yard, tier: str) -> None:
    yard.hold(**{tier: "b"})
    assert yard.picked() == "b1"
    yard.ledger.ram("b").forget(VERSION.salt)
    yard.ledger.disk("b").forget(VERSION.salt)
    yard.hold(**{tier: "a"})
    assert yard.picked() in {"a1", "a2"}


async def test_a_copy_in_ram_goes_before_one_on_disk(yard: Yard) -> None:
    yard.hold(disk="a")
    yard.hold(ram="b")
    assert yard.picked() == "b1"


async def test_the_figures_of_the_choice_may_be_replaced(yard: Yard) -> None:
    yard.hold(gpu="b1", ram="a")
    async with yard.question("b1"):
        assert yard.picked() in {"a1", "a2"}
        yard.pool.costs = Costs(ram_s=1.0)
        assert yard.picked() == "b1"


async def test_workers_without_a_host_are_chosen_among_as_well() -> None:
    workers = [AskedWorker("x"), AskedWorker("y")]
    ledger = Ledger()
    pool = WorkerPool(workers, ledger, at_once=4)
    await pool.check()
    for worker in workers:
        ledger.gpu(worker.name).stored(KEYS, None, VERSION.salt, 256)
        assert pool.pick(VERSION) is worker
        ledger.forget_worker(worker.name)


# --- only some of the workers


async def test_only_workers_of_the_host_or_only_the_worker_that_is_asked_for(yard: Yard) -> None:
    yard.hold(gpu="a1", ram="a", disk="a")
    assert yard.picked(host="b") == "b1"
    assert yard.picked(host="a") == "a1"
    assert yard.picked(worker="a2") == "a2"
    assert yard.picked(worker="a2", host="a") == "a2"


async def test_a_host_or_worker_that_there_is_not_is_said_to_be_none(yard: Yard) -> None:
    assert yard.refused(worker="c1") == "There is no worker 'c1'."
    assert yard.refused(host="c") == "There is no worker of host 'c'."
    assert yard.refused(worker="a1", host="b") == "There is no worker 'a1' of host 'b'."


async def test_full_workers_are_said_to_be_full_and_one_with_room_is_chosen(yard: Yard) -> None:
    yard.hold(gpu="b1")
    with yard.fill("b1"):
        assert yard.picked() in {"a1", "a2"}
        assert yard.refused(host="b") == "Every worker of host 'b' is full. Try again in a moment."
        assert yard.refused(worker="b1") == "The worker 'b1' is full. Try again in a moment."
        with yard.fill("a1"):
            assert yard.picked() == "a2"
            assert yard.refused(avoid=frozenset({"a2"})) == "Every worker is full. Try again in a moment."
            with yard.fill("a2"):
                assert yard.refused() == "Every worker is full. Try again in a moment."
    assert yard.picked() == "b1"


async def test_a_refusal_says_what_is_wrong_with_the_workers_in_question_alone(yard: Yard) -> None:
    yard.pool.failed(yard.workers["a1"], "is on fire")
    yard.pool.failed(yard.workers["b1"], "is gone")
    assert yard.picked() == yard.picked(host="a") == "a2"
    assert yard.refused(worker="a1") == "There is no worker 'a1' that can answer now: a1 is on fire."
    assert yard.refused(host="b") == "There is no worker of host 'b' that can answer now: b1 is gone."
    yard.pool.failed(yard.workers["a2"], "is asleep")
    assert yard.refused() == "There is no worker that can answer now: a1 is on fire; a2 is asleep; b1 is gone."


async def test_those_that_have_just_failed_are_not_asked_again(yard: Yard) -> None:
    assert yard.picked(avoid=ALL - {"a2"}) == "a2"
    assert yard.refused(avoid=ALL) == "There is no worker that can answer now: the others have just failed."


# --- health, slots, and waiting


async def test_no_worker_is_asked_before_it_was_checked() -> None:
    yard = Yard()
    assert "has not been checked yet" in yard.refused()
    assert (len(yard.pool), yard.pool.healthy) == (3, 0)
    usable = asyncio.create_task(yard.pool.usable())
    await asyncio.sleep(0)
    assert not usable.done()
    await yard.pool.check()
    await asyncio.wait_for(usable, 5)


async def test_late_answers_to_a_check_are_forgiven_until_there_are_three_in_a_row(yard: Yard) -> None:
    yard.hold(gpu="a1")
    yard.workers["a1"].problem = "is slow"
    for _ in range(STRIKES - 1):
        await yard.pool.check()
    yard.workers["a1"].problem = None
    await yard.pool.check()
    yard.workers["a1"].problem = "is slow"
    for _ in range(STRIKES - 1):
        await yard.pool.check()
        assert yard.picked() == "a1"
    await yard.pool.check()
    assert yard.pool.problems == {"a1": "is slow"}
    assert yard.ledger.gpu_share(VERSION, "a1") == 0  # it may have been started anew
    yard.workers["a1"].problem = None
    await yard.pool.check()
    assert yard.pool.problems == {}


async def test_a_slot_is_given_back_however_a_request_ends(yard: Yard) -> None:
    worker = yard.workers["a1"]
    seen = []
    with suppress(ZeroDivisionError), yard.pool.slot(worker):
        seen = [yard.pool.busy(worker), dict(yard.pool.running)]
        raise ZeroDivisionError
    assert seen == [True, {"a1": 1, "a2": 0, "b1": 0}]
    assert not yard.pool.busy(worker)


async def test_the_pool_is_pressed_while_a_question_waits_for_its_first_token_anywhere(yard: Yard) -> None:
    a1, b1 = yard.workers["a1"], yard.workers["b1"]
    with yard.pool.slot(a1):
        pressed = [yard.pool.pressed]  # a reading is no live question
        with yard.pool.waiting(b1):
            pressed.append(yard.pool.pressed)
            with yard.pool.waiting(a1):
                pass
            pressed.append(yard.pool.pressed)
        pressed.append(yard.pool.pressed)
    assert pressed == [False, True, True, False]


async def test_a_reading_lets_waiting_questions_pass_but_not_for_ever(yard: Yard) -> None:
    worker = yard.workers["a1"]
    waiting = yard.pool.waiting(worker)
    waiting.__enter__()
    quiet = asyncio.create_task(yard.pool.quiet(worker, at_most_s=60))
    await asyncio.sleep(0)
    assert not quiet.done()
    await yard.pool.quiet(worker, at_most_s=0)
    waiting.__exit__(None, None, None)
    await asyncio.wait_for(quiet, 5)
