"""Questions to a document whose KV is nowhere: the first reads it for all of them, and nothing is left of the waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from gateway.asking.cold import ColdQuestions
from router.documents import Salt
from router.errors import EngineFailed
from tests.fakes.engine import CHUNK, Fault, Gate
from tests.fakes.gateway import eventually
from tests.gateway.cellar import SIZE as CELLAR_SIZE
from tests.gateway.cellar import Cellar, ids_of
from tests.gateway.tiers import SIZE, TieredGateway, TrueHost, budget, text

QUESTION = "What is it about?"


async def evicted(running: TieredGateway) -> None:
    """Document a is held nowhere any more; where there is room for three, b to d are."""
    for name in "abcd":
        await running.add(text(name), id=name)
    for host in running.hosts:
        host.disk.pop(running.salt("a"), None)
        running.ledger.disk(host.name).forget(Salt(running.salt("a")))
    running.cool()


def readers(answers: Iterable[Any]) -> int:
    """How many of them met nothing of the document, and so had it read."""
    return [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers].count(0)


async def ask_together(running: TieredGateway, number: int) -> list[Any]:
    return list(await asyncio.gather(*(running.ask(QUESTION, document="a") for _ in range(number))))


@pytest.mark.parametrize(("workers", "hosts"), [(1, 1), (3, 1), (3, 3)])
async def test_of_fifty_questions_at_once_one_reads_the_document(tmp_path: Path, workers: int, hosts: int) -> None:
    """One on each host that so many spread over: KV that is on another can't be had."""
    there = [TrueHost(f"host-{number}") for number in range(hosts)]
    async with TieredGateway(tmp_path, disk=budget(3), workers=workers, hosts=there).running() as running:
        await evicted(running)
        answers = await ask_together(running, 50)
        assert all(answer["choices"][0]["message"]["content"] for answer in answers)
        assert readers(answers) == [answer["headers"]["x-cache-tier"] for answer in answers].count("none") == hosts
        assert all(host.peak_bytes <= 3 * SIZE for host in there)
        assert "a" in running.on_disk()


async def test_where_nothing_can_be_kept_one_reads_for_all_too(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(3)).running() as running:
        await evicted(running)
        for name in "bcd":
            await running.json("PATCH", f"/v1/documents/{name}", json={"pinned": True})
        written = len(running.host.stored)
        assert readers(await ask_together(running, 20)) == 1
        assert len(running.host.stored) == written


async def test_a_reading_question_that_fails_hands_its_turn_on(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(3)).running() as running:
        await evicted(running)
        running.workers[0].faults = [Fault(EngineFailed("The worker says: not this one."))]
        outcomes = await asyncio.gather(*(running.ask(QUESTION, document="a") for _ in range(5)), return_exceptions=True)
        answers = [outcome for outcome in outcomes if isinstance(outcome, dict)]
        assert len(answers) == 4
        assert readers(answers) == 1


async def test_a_client_that_leaves_while_it_reads_hands_its_turn_on(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(3)).running() as running:
        await evicted(running)
        gate = Gate(running.workers[0], lambda body: len(body["prompt"]) > CHUNK)
        first = asyncio.create_task(running.ask(QUESTION, document="a"))
        await gate.reached()
        second = asyncio.create_task(running.ask(QUESTION, document="a"))
        third = asyncio.create_task(running.ask(QUESTION, document="a"))
        await asyncio.sleep(0.05)
        assert len(gate.held) == 1  # they wait for it
        second.cancel()
        first.cancel()
        await eventually(lambda: len(gate.held) == 2)
        gate.open()
        assert (await third)["headers"]["x-cache-tier"] == "none"
        await asyncio.gather(first, second, return_exceptions=True)
        assert running.host.peak_bytes <= 3 * SIZE


async def test_questions_to_two_cold_documents_do_not_wait_for_one_another(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(2)).running() as running:
        for name in "abcd":
            await running.add(text(name), id=name)
        running.cool()
        gate = Gate(running.workers[0], lambda body: body["cache_salt"] == running.salt("a"))
        held = asyncio.create_task(running.ask(QUESTION, document="a"))
        await gate.reached()
        assert (await running.ask(QUESTION, document="b"))["headers"]["x-cache-tier"] == "none"
        gate.open()
        assert (await held)["headers"]["x-cache-tier"] == "none"
        assert running.on_disk(whole=False) == set("ab")
        assert running.host.peak_bytes <= 2 * SIZE


async def test_a_question_past_the_cache_waits_for_nobody_and_keeps_nothing(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(3)).running() as running:
        await evicted(running)
        gate = Gate(running.workers[0], lambda body: body["cache_salt"] == running.salt("a"))
        held = asyncio.create_task(running.ask(QUESTION, document="a"))
        await gate.reached()
        past = await running.ask(QUESTION, document="a", headers={"cache-control": "no-cache"})
        assert past["headers"]["x-cache-tier"] == "none"
        gate.open()
        await held
        assert set(running.host.disk) == {running.salt(name) for name in running.on_disk()}


@pytest.fixture
async def cellar() -> AsyncIterator[Cellar]:
    cellar = Cellar()
    yield cellar
    cellar.telemetry.close()


async def test_nothing_is_left_of_turns_however_they_end(cellar: Cellar) -> None:
    cold = ColdQuestions(cellar.hosts, cellar.keeper)
    version = cellar.add("a")
    order = []

    async def ask(number: int, *, fails: bool = False) -> None:
        async with cold.turn(version):
            order.append(number)
            await asyncio.sleep(0.01)
            if fails:
                raise EngineFailed("so")

    first = asyncio.create_task(ask(1, fails=True))
    gone = asyncio.create_task(ask(2))
    last = asyncio.create_task(ask(3))
    await asyncio.sleep(0)
    assert repr(cold) == "<ColdQuestions 3 in 1 turns, 0 being stored>"
    gone.cancel()
    await asyncio.gather(first, gone, last, return_exceptions=True)
    assert order == [1, 3]
    assert repr(cold) == "<ColdQuestions 0 in 0 turns, 0 being stored>"


async def test_a_promise_ends_once_all_that_was_written_is_seen(cellar: Cellar) -> None:
    cold = ColdQuestions(cellar.hosts, cellar.keeper)
    version = cellar.add("a")
    for _ in range(3):
        assert await cold.keeps(cellar, version, "a")
        cold.written(version, ids_of(version), "a")
    assert repr(cold) == "<ColdQuestions 0 in 0 turns, 1 being stored>"
    await asyncio.sleep(0.05)
    assert cellar.promised["a"] == CELLAR_SIZE
    for end in range(CHUNK, version.prefix_tokens + 1, CHUNK):
        cellar.fakes["a"].store(version.salt, tuple(ids_of(version)[:end]))
    await eventually(lambda: repr(cellar.keeper) == "<DiskKeeper promised={'a': 0, 'b': 0}>")
    await eventually(lambda: repr(cold) == "<ColdQuestions 0 in 0 turns, 0 being stored>")
    assert cellar.ledger.disk_share(version, "a") == 1
    cellar.ledger.disk("a").forget(version.salt)
    assert cellar.promised["a"] == 0  # none is left, not only filled


async def test_a_promise_ends_where_nothing_can_be_seen_of_what_was_written(cellar: Cellar) -> None:
    cold = ColdQuestions(cellar.hosts, cellar.keeper)
    version = cellar.add("a")
    assert await cold.keeps(cellar, version, "a")
    cellar.servers["a"].broken = OSError("the folder is gone")
    cold.written(version, ids_of(version), "a")
    await eventually(lambda: cellar.promised["a"] == 0)


async def test_a_promise_ends_where_the_gateway_does(cellar: Cellar) -> None:
    cold = ColdQuestions(cellar.hosts, cellar.keeper)
    version = cellar.add("a")
    for at_once in (True, False):
        assert await cold.keeps(cellar, version, "a")
        cold.written(version, ids_of(version), "a")
        if not at_once:
            await asyncio.sleep(0.01)
        await cold.close()
        await asyncio.sleep(0)
        assert cellar.promised["a"] == 0


async def test_where_there_is_no_room_nothing_is_promised(cellar: Cellar) -> None:
    cold = ColdQuestions(cellar.hosts, cellar.keeper)
    for name in "abc":
        cellar.add(name, on="a", pinned=True)
    assert not await cold.keeps(cellar, cellar.add("d"), "a")
    assert cellar.promised["a"] == 0


async def test_of_those_that_wait_one_has_the_next_turn_and_the_others_go_on_waiting(cellar: Cellar) -> None:
    """Else each would go to a worker's slot and back again whenever one is answered."""
    cold, version = ColdQuestions(cellar.hosts, cellar.keeper), cellar.add("a")
    passed: list[int] = []
    ends = [asyncio.Event() for _ in range(3)]

    async def ask(number: int) -> None:
        await cold.over(version)
        passed.append(number)
        async with cold.turn(version):
            await ends[number].wait()

    asking = [asyncio.create_task(ask(number)) for number in range(3)]
    for number in range(3):
        for _ in range(10):
            await asyncio.sleep(0)
        assert passed == list(range(number + 1))
        ends[number].set()
    await asyncio.gather(*asking)
