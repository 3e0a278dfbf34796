"""The queue before the workers: who waits, who goes, who is refused, and that nothing is left of whoever leaves."""

from __future__ import annotations

import asyncio

import pytest

from backends.base import Usage
from backends.settings import SPARE
from router.documents import TenantId
from router.errors import EngineUnavailable, QueueFull, ShareFull, WaitedTooLong
from router.fairness import Turns
from tests.fakes.crowd import WARM, FirstCome, Kind, figures
from tests.fakes.gateway import eventually
from tests.fakes.simulated import p
from tests.gateway.line import AT_ONCE, A, B, line, settled
from tests.gateway.yard import VERSION

# --- whose turn it is


async def test_what_a_worker_has_room_for_goes_at_once() -> None:
    async with line() as one:
        with one.queue.ticket(A) as first, one.queue.ticket(B) as second:
            for ticket in (first, second):
                turn = ticket.turn(VERSION, lambda _: 1)
                with pytest.raises(StopIteration):
                    turn.send(None)  # without waiting for anything
            assert one.running == 2


async def test_a_tenant_that_floods_has_another_wait_for_no_more_than_one_question() -> None:
    async with line() as one:
        for number in range(20):
            await one.ask(f"a{number}", A)
        await one.ask("b0", B)
        await one.ask("b1", B)
        await one.ask("b2", B)
        assert one.order == ["a0", "a1", "b0"]  # which needed no slot of a's
        for name in list(one.order):
            await one.end(name)
        assert one.order[3:] == ["a2", "a3", "b1"]  # which came after 18 others


async def test_one_tenant_alone_takes_none_of_the_spare_slots() -> None:
    async with line() as one:
        for number in range(5):
            await one.ask(f"a{number}", A)
        assert one.order == ["a0", "a1"]
        for number, tenant in enumerate(("b", "c", "d", "e")):
            await one.ask(f"{tenant}{number}", TenantId(tenant))
        assert len(one.order) == AT_ONCE + SPARE
        assert one.running == AT_ONCE + SPARE


async def test_while_another_asks_too_a_tenants_questions_start_one_after_the_other() -> None:
    async with line() as one:
        await one.ask("b0", B)
        for number in range(5):
            await one.ask(f"a{number}", A, answers=False)
        assert one.order == ["b0", "a0"]
        await one.end("b0")
        assert one.order == ["b0", "a0"]  # though a slot is free
        one.tickets["a0"].generated()
        await settled()
        assert one.order == ["b0", "a0", "a1"]
        await one.leave("a1")  # before its first token
        assert one.order == ["b0", "a0", "a1", "a2"]


async def test_who_starts_holds_no_other_tenant_back() -> None:
    async with line() as one:
        await one.ask("b0", B, computed=1000)
        for number in range(3):
            await one.ask(f"a{number}", A, answers=False)
        await one.ask("b1", B)  # which was given more than a
        await one.end("b0")
        assert one.order == ["b0", "a0", "b1"]


async def test_a_long_start_holds_the_tenants_others_back_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.asking.ticket.STARTING_S", 0.01)
    async with line() as one:
        await one.ask("b0", B)
        await one.ask("a0", A, answers=False)
        await one.end("b0")
        await one.ask("a1", A)
        assert one.order == ["b0", "a0"]
        await eventually(lambda: "a1" in one.order)


async def test_who_has_more_weight_is_given_more() -> None:
    async with line(weight_of={A: 1.0, B: 3.0}.__getitem__) as one:
        for number in range(12):
            await one.ask(f"a{number}", A)
        for number in range(12):
            await one.ask(f"b{number}", B)
        for number in range(12):
            await one.end(one.order[number])
        later = [name[0] for name in one.order[4:]]
        assert later.count("b") > 2 * later.count("a") > 0


async def test_what_costs_more_is_asked_less_often() -> None:
    async with line() as one:
        for number in range(10):
            await one.ask(f"a{number}", A, computed=1000)
        for number in range(10):
            await one.ask(f"b{number}", B, computed=10)
        for number in range(8):
            await one.end(one.order[number])
        assert [name[0] for name in one.order].count("a") <= 3  # each of which costs as much as a hundred of b's


async def test_the_worker_is_chosen_when_the_turn_comes() -> None:
    async with line(workers=2) as two:
        for number in range(6):
            await two.ask(f"a{number}", A)
        two.pool.failed(two.workers[0], "is gone")
        await two.end("a0")
        taken = dict(two.pool.running)
        assert sum(taken.values()) == 4 or taken["worker-1"] <= AT_ONCE


async def test_slots_that_are_free_are_never_left_empty() -> None:
    async with line(workers=2) as two:
        for number in range(12):
            await two.ask(f"a{number}", A)
        for number in range(8):
            assert two.running == 4
            await two.end(two.order[number])
        assert two.running == 4


async def test_what_was_believed_wrongly_is_put_right() -> None:
    async with line() as one:
        with one.queue.ticket(A) as ticket:
            await ticket.turn(VERSION, lambda _: 1000)
            assert one.queue._turns.counter(A) == 1000
            ticket.generated()
            ticket.settle(Usage(prompt_tokens=1010, cached_tokens=1000, completion_tokens=3))
        assert one.queue._turns.counter(A) == 10 + 3 * 2


async def test_readings_let_those_pass_who_wait_in_line() -> None:
    async with line() as one:
        for number in range(2):
            await one.ask(f"a{number}", A)
        assert not one.pool.pressed
        await one.ask("a2", A)
        assert one.pool.pressed
        await asyncio.wait_for(one.pool.asked(one.workers[0]), 5)
        await one.end("a0")
        assert not one.pool.pressed
        await one.ask("a3", A)
        await one.leave("a3")
        assert not one.pool.pressed


# --- who is refused


async def test_one_tenant_cannot_fill_the_queue_for_others() -> None:
    async with line(max_waiting=4, max_share=0.5) as one:
        for number in range(5):
            await one.ask(f"a{number}", A)
        refusal = await one.refused("a4")
        assert isinstance(refusal, ShareFull)
        assert refusal.retry_after_s >= 1
        await one.ask("b0", B)
        await one.ask("b1", B)
        assert not one.tasks["b1"].done()


async def test_beyond_the_queues_limit_questions_are_refused_at_once() -> None:
    async with line(max_waiting=2, max_share=1.0) as one:
        for name, tenant in (("a0", A), ("a1", A), ("a2", A), ("b0", B), ("b1", B)):
            await one.ask(name, tenant)
        await one.ask("a3", A)
        refusal = await one.refused("a3")
        assert isinstance(refusal, QueueFull)
        assert "2 questions wait already" in str(refusal)
        await one.end("a0")
        await one.end("a1")
        await one.ask("a4", A)
        assert not one.tasks["a4"].done()


async def test_a_refused_question_says_when_to_come_back_by_how_long_questions_take() -> None:
    clock = [0.0]
    async with line(max_waiting=4, max_share=1.0) as one:
        one.queue.clock = lambda: clock[0]
        await one.ask("first", A)
        clock[0] = 10.0
        await one.end("first")
        for number in range(7):
            await one.ask(f"a{number}", A)
        refusal = await one.refused("a6")
        assert isinstance(refusal, ShareFull)
        assert refusal.retry_after_s == 25  # 5 questions, two at a time, 10 s each


async def test_a_question_that_waited_as_long_as_it_may_is_refused() -> None:
    async with line(max_wait_s=0.01) as one:
        for number in range(3):
            await one.ask(f"a{number}", A)
        refusal = await one.refused("a2")
        assert isinstance(refusal, WaitedTooLong)
        assert len(one.queue) == 0
        await one.end("a0")
        assert one.order == ["a0", "a1"]


async def test_where_no_worker_is_left_nobody_waits_for_one() -> None:
    async with line() as one:
        for number in range(4):
            await one.ask(f"a{number}", A)
        one.pool.failed(one.workers[0], "is gone")
        for name in ("a2", "a3"):
            assert isinstance(await one.refused(name), EngineUnavailable)
        await one.ask("a4", A)
        assert "is gone" in str(await one.refused("a4"))


async def test_a_worker_that_comes_back_is_used_at_once() -> None:
    async with line(workers=2) as two:
        two.workers[1].problem = "is away"
        two.pool.failed(two.workers[1], "is away")
        for number in range(4):
            await two.ask(f"a{number}", A)
        assert two.running == 2
        two.workers[1].problem = None
        await two.pool.check()
        await settled()
        assert two.running == 4


# --- how long it takes, in a simulated engine's time


@pytest.mark.parametrize("reading", [False, True], ids=["", "a reading under way"])
def test_beside_a_tenant_that_floods_anothers_first_token_takes_twice_as_long_at_most(reading: bool) -> None:
    alone, beside = (figures(flood, reading=reading, questions=60) for flood in (None, WARM))
    assert p(0.95, beside.first_token_s) <= 2 * p(0.95, alone.first_token_s)
    first_come = figures(WARM, turns=FirstCome, reading=reading, questions=20)
    assert p(0.95, first_come.first_token_s) > 20 * p(0.95, alone.first_token_s)


def test_fairness_costs_the_flooding_tenant_next_to_nothing() -> None:
    fair, first_come = (figures(WARM, turns=turns, questions=60).heavy_a_second for turns in (Turns, FirstCome))
    assert fair > 0.9 * first_come


def test_cold_questions_of_one_tenant_are_waited_for_no_longer_than_one_of_them_takes() -> None:
    cold = Kind(compute=2_000)
    fair, first_come = (figures(cold, turns=turns, questions=20) for turns in (Turns, FirstCome))
    assert p(0.95, fair.first_token_s) < p(0.5, first_come.first_token_s) / 4
