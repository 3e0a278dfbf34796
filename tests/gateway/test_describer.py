"""Generated descriptors: written by an idle engine of what it has at hand, marked, editable, and never in anybody's way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import Delta, Load
from gateway.sections import Ingestion, Ram
from router.describing import WORDINGS
from router.errors import EngineFailed, EngineUnavailable
from tests.fakes.engine import FakeWorker, Gate
from tests.fakes.gateway import RESERVE, Gateway, eventually
from tests.gateway.test_several_documents import prompt_of, salt_of_last
from tests.gateway.test_several_refused import nothing_is_held

LEASE = "# Lease of the flat\n\nThe deposit is 2,400 euros. The tenant pays the rent to the landlord."
POLICY = "# Expense policy\n\nTaxis need a receipt. Meals are paid up to forty euros."
SUMMARY = "What the tenant pays to the landlord."
QUESTIONS = ("How much is the deposit?", "Who pays the rent?")
ALL = ["summary", "questions"]


class Writer(FakeWorker):
    """Answers what a descriptor is asked for with what it was told to write; a salt's own text where there is one."""

    summary, questions = SUMMARY, "1. " + "\n2. ".join(QUESTIONS)

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.asked: list[tuple[str, str]] = []
        """(salt, field) of each description asked for."""
        self.fails: EngineFailed | EngineUnavailable | None = None
        """Fails the next description."""
        self.looks = 0

    async def load(self) -> Load | None:
        self.looks += 1
        return await super().load()

    async def _deltas(self, request: dict[str, Any]) -> AsyncIterator[Delta]:
        prompt, self.words = prompt_of(request), ["It ", "is ", "so."]
        for name, wording in WORDINGS.items():
            if wording in prompt:
                self.asked.append((request["cache_salt"], name))
                self.words = [getattr(self, name)]
                if (error := self.fails) is not None:
                    self.fails = None
                    raise error
        async for delta in super()._deltas(request):
            yield delta


def is_description(body: dict[str, Any]) -> bool:
    return any(wording in prompt_of(body) for wording in WORDINGS.values())


def describing(folder: Path, *, on: bool = True, **more: Any) -> Gateway:
    settings = Ingestion(answer_reserve_tokens=RESERVE, describe=on)
    gateway = Gateway(folder, ingestion=settings, ram=Ram(policy="lru"), **more)
    gateway.workers = [Writer(worker.name, worker.host) for worker in gateway.workers]
    return gateway


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with describing(tmp_path).running() as running:
        yield running


def writer(gateway: Gateway) -> Writer:
    worker = gateway.workers[0]
    assert isinstance(worker, Writer)
    return worker


async def show(gateway: Gateway, name: str = "lease", **more: Any) -> Any:
    return await gateway.json("GET", f"/v1/documents/{name}", **more)


async def until_generated(gateway: Gateway, name: str = "lease", fields: list[str] = ALL, **more: Any) -> Any:
    async def holds() -> bool:
        return bool((await show(gateway, name, **more))["generated"] == fields)

    await eventually(holds)
    return await show(gateway, name, **more)


async def nothing_more_is_asked(gateway: Gateway) -> None:
    """Another document is described meanwhile: whatever was due before it has had its turn."""
    before = len(writer(gateway).asked)
    await gateway.add(POLICY.replace("policy", "rules"), id="zz-last")
    salt = salt_of_last(gateway)
    await eventually(lambda: {found for found in writer(gateway).asked if found[0] == salt} == {(salt, name) for name in ALL})
    assert {found_salt for found_salt, _ in writer(gateway).asked[before:]} == {salt}


async def test_what_is_lacking_is_written_by_the_engine_and_marked(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    shown = await until_generated(gateway)
    assert shown["summary"] == SUMMARY
    assert tuple(shown["questions"]) == QUESTIONS
    assert shown["title"] == "Lease of the flat"
    bodies = [body for body in writer(gateway).bodies if is_description(body)]
    assert len(bodies) == 2
    for body in bodies:
        assert body["kv_transfer_params"] == {"lmcache.max_offload_tokens": 0}
        assert body["max_tokens"] > 1
    await nothing_is_held(gateway)


async def test_it_is_off_by_default(tmp_path: Path) -> None:
    assert not Ingestion().describe
    async with describing(tmp_path, on=False).running() as gateway:
        await gateway.add(LEASE, id="lease")
        await gateway.ask("Why?", document="lease")
        assert (await show(gateway))["generated"] == []
        assert writer(gateway).asked == []


async def test_it_takes_part_in_routing_as_what_is_given_does(gateway: Gateway) -> None:
    writer(gateway).questions = "Who pays the landlord for the tenant and the deposit?"
    await gateway.add(LEASE, id="lease")
    texts = gateway.embedder.texts
    await until_generated(gateway)
    await eventually(lambda: gateway.embedder.texts >= texts + 3)  # title with summary, question, passage
    found = await gateway.json("POST", "/v1/route", json={"question": "Who pays the landlord for the tenant and the deposit?"})
    assert found["document"] == "lease"


async def test_only_what_is_left_out_is_written(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease", summary="Mine.")
    shown = await until_generated(gateway, fields=["questions"])
    assert shown["summary"] == "Mine."
    assert [name for _, name in writer(gateway).asked] == ["questions"]


async def test_what_is_changed_loses_its_mark_and_stays_empty_where_it_was_emptied(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await until_generated(gateway)
    changed = await gateway.json("PATCH", "/v1/documents/lease", json={"summary": "Mine."})
    assert (changed["summary"], changed["generated"]) == ("Mine.", ["questions"])
    emptied = await gateway.json("PATCH", "/v1/documents/lease", json={"questions": [], "summary": ""})
    assert (emptied["summary"], emptied["questions"], emptied["generated"]) == ("", [], [])
    await nothing_more_is_asked(gateway)
    shown = await show(gateway)
    assert (shown["summary"], shown["questions"], shown["generated"]) == ("", [], [])


async def test_new_content_is_described_anew_and_the_same_content_is_not(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    before = await until_generated(gateway)
    same = await gateway.json("POST", "/v1/documents", json={"id": "lease", "text": LEASE})
    assert (same["summary"], same["generated"]) == (before["summary"], ALL)
    await nothing_more_is_asked(gateway)
    writer(gateway).summary = "What the tenant owes to the landlord."
    await gateway.add(LEASE + " The tenant owes it.", id="lease")

    async def holds() -> bool:
        return bool((await show(gateway))["summary"] == "What the tenant owes to the landlord.")

    await eventually(holds)


async def test_marks_and_emptiness_survive_a_restart(tmp_path: Path) -> None:
    first = describing(tmp_path)
    async with first.running():
        await first.add(LEASE, id="lease")
        await until_generated(first)
        await first.json("PATCH", "/v1/documents/lease", json={"questions": []})
    second = describing(tmp_path, store=first.store, host=first.host)
    async with second.running():
        shown = await show(second)
        assert (shown["summary"], shown["questions"], shown["generated"]) == (SUMMARY, [], ["summary"])
        await nothing_more_is_asked(second)


async def test_each_tenants_document_is_described_from_its_own_content_alone(gateway: Gateway) -> None:
    key = await gateway.new_key("tenant-b")
    await gateway.add(LEASE, id="lease")
    lease = salt_of_last(gateway)
    await until_generated(gateway)
    writer(gateway).summary, writer(gateway).questions = "Which meals and taxis are paid.", QUESTIONS[0]
    await gateway.add(POLICY, id="lease", key=key)
    policy = next(body["cache_salt"] for body in writer(gateway).bodies if body["cache_salt"] != lease)
    theirs = await until_generated(gateway, fields=["summary"], key=key)  # the questions are the lease's: dropped
    assert theirs["summary"] == "Which meals and taxis are paid."
    assert (await show(gateway))["summary"] == SUMMARY
    assert {salt for salt, _ in writer(gateway).asked} == {lease, policy}
    for body in writer(gateway).bodies:
        if is_description(body):
            assert ("Taxis" in prompt_of(body)) == (body["cache_salt"] == policy)


async def test_a_live_question_comes_first_and_it_is_begun_again(gateway: Gateway) -> None:
    worker = writer(gateway)
    gate = Gate(worker, is_description)
    await gateway.add(LEASE, id="lease")
    await gate.reached()
    answer = await gateway.ask("Why?", document="lease")
    assert answer["choices"][0]["message"]["content"] == "It is so."
    await eventually(lambda: worker.aborted >= 1)
    gate.open()
    await until_generated(gateway)
    await nothing_is_held(gateway)


async def test_a_busy_worker_is_left_alone(gateway: Gateway) -> None:
    worker = writer(gateway)
    worker.elsewhere = 3  # of somebody else's
    looks = worker.looks
    await eventually(lambda: worker.looks > looks + 1)
    await gateway.add(LEASE, id="lease")
    await gateway.ask("Why?", document="lease")
    assert worker.asked == []
    worker.elsewhere = 0
    await until_generated(gateway)


async def test_a_cold_document_is_not_read_for_it(tmp_path: Path) -> None:
    first = describing(tmp_path, on=False)
    async with first.running():
        await first.add(LEASE, id="lease")
    first.host.forget_ram()
    second = describing(tmp_path, store=first.store, host=first.host)
    async with second.running():
        await nothing_more_is_asked(second)
        assert (await show(second))["generated"] == []
        await second.ask("Why?", document="lease")  # which warms it
        await until_generated(second)


@pytest.mark.parametrize("summary", ["The rent the rent the rent the rent.", "Of a castle in Transylvania.", ""])
async def test_what_is_not_fit_is_not_kept_and_not_asked_for_again(gateway: Gateway, summary: str) -> None:
    worker = writer(gateway)
    worker.summary, worker.questions = summary or "nothing", "no question"
    await gateway.add(LEASE, id="lease")
    await eventually(lambda: len(worker.asked) == 2)
    await nothing_more_is_asked(gateway)
    shown = await show(gateway)
    assert (shown["summary"], shown["questions"], shown["generated"]) == ("", [], [])


async def test_an_engine_that_fails_costs_nothing_but_the_description(gateway: Gateway) -> None:
    writer(gateway).fails = EngineFailed("fell over")
    await gateway.add(LEASE, id="lease")
    await eventually(lambda: writer(gateway).fails is None)
    await nothing_more_is_asked(gateway)
    assert (await show(gateway))["generated"] == []
    assert (await gateway.ask("Why?", document="lease"))["choices"]
    await nothing_is_held(gateway)


async def test_a_worker_that_is_away_for_a_moment_is_asked_again(gateway: Gateway) -> None:
    writer(gateway).fails = EngineUnavailable("restarts")
    await gateway.add(LEASE, id="lease")
    await until_generated(gateway)
    assert [name for _, name in writer(gateway).asked] == ["summary", "summary", "questions"]


async def test_a_database_that_is_away_puts_it_off(gateway: Gateway) -> None:
    gate = Gate(gateway.workers[0], is_description)
    await gateway.add(LEASE, id="lease")
    await gate.reached()
    store: Any = gateway.store
    store.fault = "away"
    gate.open()
    await eventually(lambda: store.refused > 1)
    store.fault = None
    await until_generated(gateway)
