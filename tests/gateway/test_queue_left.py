"""Who leaves the queue: while it waits, as its turn comes, to step aside, or for another worker."""

from __future__ import annotations

import asyncio

import pytest

from router.errors import EngineUnavailable, ShareFull
from tests.fakes.versions import ready
from tests.gateway.line import A, B, line, settled
from tests.gateway.yard import VERSION


async def test_who_leaves_while_it_waits_frees_its_place_at_once() -> None:
    async with line(max_waiting=1, max_share=1.0) as one:
        for number in range(3):
            await one.ask(f"a{number}", A)
        await one.leave("a2")
        await one.ask("a3", A)
        assert not one.tasks["a3"].done()
        await one.end("a0")
        assert one.order == ["a0", "a1", "a3"]


async def test_who_leaves_just_as_its_turn_has_come_hands_it_on() -> None:
    async with line() as one:
        with one.queue.ticket(A) as ticket:
            await ticket.turn(VERSION, lambda _: 10)
            for number in range(3):
                await one.ask(f"a{number}", A)
        one.tasks["a1"].cancel()  # it has the slot by now, and has not run since
        await settled()
        assert one.order == ["a0", "a2"]
        assert one.running == 2


async def test_who_steps_aside_lets_others_have_the_slot_and_pays_nothing_for_it() -> None:
    async with line(max_waiting=2, max_share=1.0) as one:
        over = asyncio.Event()

        async def waits() -> None:
            with one.queue.ticket(A) as ticket:
                await ticket.turn(VERSION, lambda _: 500)
                await ticket.aside(over.wait())  # type: ignore[arg-type]
                await ticket.turn(VERSION, lambda _: 10)
                one.order.append("aside")

        task = asyncio.create_task(waits())
        await settled()
        assert (one.running, len(one.queue), one.queue._turns.counter(A)) == (0, 1, 0)
        for number in range(4):
            await one.ask(f"a{number}", A)
        assert isinstance(await one.refused("a3"), ShareFull)  # who stepped aside waits as well
        over.set()
        await settled()
        await one.end("a0")
        await task
        assert one.order == ["a0", "a1", "aside", "a2"]  # it came before a2


async def test_a_question_is_moved_to_another_worker_without_waiting_again() -> None:
    async with line(workers=2) as two:
        for number in range(4):
            await two.ask(f"a{number}", A)
        with two.queue.ticket(B) as ticket:
            worker = await ticket.turn(ready("v"), lambda _: 10)
            other = ticket.again(worker, frozenset({worker.name}))
            assert other is not worker
            assert two.running == 5
            with pytest.raises(EngineUnavailable):
                ticket.again(other, frozenset({"worker-0", "worker-1"}))
        assert two.running == 4
