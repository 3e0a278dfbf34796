"""A second look: the engine is asked where matching can't tell, of what is at hand, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.sections import Ram, Routing, SecondLook
from router.errors import EngineFailed
from tests.fakes.engine import Fault, Gate
from tests.fakes.gateway import Gateway
from tests.gateway.test_several_documents import prompt_of, salt_of_last
from tests.gateway.test_several_refused import held, nothing_is_held

FLAT = "# Lease of the flat\n\nThe deposit is 2,400 euros."
SHOP = "# Lease of the shop\n\nThe deposit is 9,000 euros."
QUESTION = "How many euros is the deposit?"
MIN_SCORE, MARGIN = 0.4, 0.1
YES, NO = ({"Yes": math.log(one), "No": math.log(1 - one), "The": -9.0} for one in (0.95, 0.1))


def looking(folder: Path, **settings: Any) -> Gateway:
    look = SecondLook(**{"time_limit_s": 20.0, **settings})
    # A policy that brings nothing ahead: what is cold stays cold.
    return Gateway(folder, routing=Routing(min_score=MIN_SCORE, margin=MARGIN, second_look=look), ram=Ram(policy="lru"))


async def fill(gateway: Gateway, **says: dict[str, float]) -> dict[str, str]:
    """Two documents that fit the question alike; `says`: the engine's word on each. Their salts."""
    salts = {}
    for name, text in (("flat", FLAT), ("shop", SHOP)):
        await gateway.add(text, id=name)
        salts[name] = salt_of_last(gateway)
        gateway.workers[0].alternatives[salts[name]] = says[name]
    gateway.workers[0].bodies.clear()
    return salts


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with looking(tmp_path).running() as running:
        yield running


async def looks(gateway: Gateway) -> dict[str, float]:
    """How often a second look came to what."""
    async with gateway.session.get(f"{gateway.admin_url}/metrics") as response:
        text = await response.text()
    found = re.findall(r'^kvshelf_second_looks_total\{kvshelf_outcome="(\w+)"\} (\S+)', text, re.MULTILINE)
    return {outcome: float(count) for outcome, count in found}


async def refused(gateway: Gateway, code: str = "document_ambiguous") -> list[str]:
    """Ask what can't be placed; the candidates."""
    error = (await gateway.ask(QUESTION, status=409))["error"]
    assert error["code"] == code
    return [candidate["document"] for candidate in error["candidates"]]


@pytest.mark.parametrize("right", ["flat", "shop"])
async def test_the_engine_says_which_of_two_it_is(gateway: Gateway, right: str) -> None:
    says = {"flat": NO, "shop": NO, right: YES}
    salts = await fill(gateway, **says)
    answer = await gateway.ask(QUESTION)
    assert answer["headers"]["x-document-id"] == right
    assert float(answer["headers"]["x-route-score"]) > 0.8
    assert await looks(gateway) == {"decided": 1}
    *asked, answering = gateway.workers[0].bodies
    assert {body["cache_salt"] for body in asked} == set(salts.values())
    assert answering["cache_salt"] == salts[right]
    for body in asked:
        assert (body["max_tokens"], body["logprobs"], body["temperature"]) == (1, 20, 0)
        assert body["kv_transfer_params"] == {"lmcache.max_offload_tokens": 0}  # nothing of it is kept
        assert f"Answer yes or no, with one word.\n\nQuestion: {QUESTION}" in prompt_of(body)
    await nothing_is_held(gateway)


async def test_it_is_off_by_default(tmp_path: Path) -> None:
    async with Gateway(tmp_path, routing=Routing(min_score=MIN_SCORE, margin=MARGIN)).running() as gateway:
        await fill(gateway, flat=YES, shop=NO)
        assert await refused(gateway) == ["flat", "shop"]
        assert gateway.workers[0].bodies == []
        assert await looks(gateway) == {}


async def test_where_the_engine_can_not_tell_either_it_stays_ambiguous(gateway: Gateway) -> None:
    await fill(gateway, flat=YES, shop=YES)
    assert await refused(gateway) == ["flat", "shop"]
    assert await looks(gateway) == {"undecided": 1}


async def test_what_is_not_in_doubt_is_not_asked(gateway: Gateway) -> None:
    await fill(gateway, flat=NO, shop=YES)
    answer = await gateway.ask("Is the flat of the lease of the flat a flat?")
    assert answer["headers"]["x-document-id"] == "flat"
    assert len(gateway.workers[0].bodies) == 1
    await gateway.ask("Zebras graze?", status=404)
    assert await looks(gateway) == {}


async def test_a_route_that_leads_by_little_is_in_doubt_where_the_configuration_says_so(tmp_path: Path) -> None:
    async with looking(tmp_path, lead_below=1.0).running() as gateway:
        await fill(gateway, flat=NO, shop=YES)
        first = await gateway.json("POST", "/v1/route", json={"question": "Is the flat of the lease of the flat a flat?"})
        again = {"question": "Is the flat of the lease of the flat a flat?", "second_look": True}
        second = await gateway.json("POST", "/v1/route", json=again)
        assert first["document"] == "flat"
        assert second["candidates"][0]["score"] < first["score"]
        assert len(gateway.workers[0].bodies) == 2


async def test_the_dry_run_asks_the_engine_only_when_it_is_told_to(gateway: Gateway) -> None:
    await fill(gateway, flat=NO, shop=YES)
    assert (await gateway.json("POST", "/v1/route", json={"question": QUESTION}))["decision"] == "ambiguous"
    assert gateway.workers[0].bodies == []
    found = await gateway.json("POST", "/v1/route", json={"question": QUESTION, "second_look": True})
    assert (found["decision"], found["document"]) == ("route", "shop")


async def test_a_cold_candidate_is_not_asked_and_the_other_alone_tells_nothing(gateway: Gateway) -> None:
    salts = await fill(gateway, flat=YES, shop=NO)
    gateway.host.forget_ram(salts["shop"])  # still on disk: it could be restored
    prefetched = list(gateway.kv_server.prefetched)
    assert await refused(gateway) == ["flat", "shop"]
    assert gateway.workers[0].bodies == []
    assert gateway.kv_server.prefetched == prefetched
    assert await looks(gateway) == {"cold": 1}


async def test_of_three_that_may_be_asked_a_cold_one_is_left_out(tmp_path: Path) -> None:
    async with looking(tmp_path, candidates=3).running() as gateway:
        salts = await fill(gateway, flat=YES, shop=NO)
        await gateway.add("# Lease of the yard\n\nThe deposit is 8,000 euros.", id="yard")
        cold = salt_of_last(gateway)
        gateway.host.forget_ram(cold)
        gateway.workers[0].bodies.clear()
        await gateway.json("POST", "/v1/route", json={"question": QUESTION, "second_look": True})
        assert {body["cache_salt"] for body in gateway.workers[0].bodies} == set(salts.values())


async def test_at_the_time_limit_what_has_not_answered_is_aborted(tmp_path: Path) -> None:
    async with looking(tmp_path, time_limit_s=0.3).running() as gateway:
        salts = await fill(gateway, flat=YES, shop=NO)
        gate = Gate(gateway.workers[0], lambda body: body["cache_salt"] == salts["shop"])
        assert await refused(gateway) == ["flat", "shop"]
        assert len(gate.held) == 1  # it was asked; the other's answer alone tells nothing
        assert gateway.workers[0].aborted == 1
        assert await looks(gateway) == {"timed_out": 1}
        await nothing_is_held(gateway)


async def test_a_worker_that_fails_leaves_the_first_decision(gateway: Gateway) -> None:
    await fill(gateway, flat=YES, shop=NO)
    gateway.workers[0].faults = [Fault(EngineFailed("fell over"))]
    assert await refused(gateway) == ["flat", "shop"]
    assert await looks(gateway) == {"failed": 1}
    await nothing_is_held(gateway)


async def test_an_engine_that_says_neither_yes_nor_no_leaves_the_first_decision(gateway: Gateway) -> None:
    await fill(gateway, flat={"The": -0.1}, shop=NO)
    assert await refused(gateway) == ["flat", "shop"]
    assert await looks(gateway) == {"failed": 1}


async def test_without_a_free_slot_the_first_decision_stands(tmp_path: Path) -> None:
    gateway = looking(tmp_path)
    gateway.config = replace(gateway.config, engine=replace(gateway.config.engine, at_once=1))
    async with gateway.running():
        await fill(gateway, flat=YES, shop=NO)
        assert await refused(gateway) == ["flat", "shop"]
        assert len(gateway.workers[0].bodies) == 1
        assert await looks(gateway) == {"failed": 1}
        await nothing_is_held(gateway)


async def test_a_client_that_leaves_meanwhile_aborts_it(gateway: Gateway) -> None:
    await fill(gateway, flat=YES, shop=NO)
    gate = Gate(gateway.workers[0])
    asking = asyncio.create_task(gateway.ask(QUESTION))
    await gate.reached()
    assert held(gateway)
    asking.cancel()
    await asyncio.wait((asking,))
    await nothing_is_held(gateway)
    assert gateway.workers[0].aborted == 2
    assert await looks(gateway) == {}


async def test_it_is_neither_a_question_nor_a_use(gateway: Gateway) -> None:
    await fill(gateway, flat=YES, shop=YES)
    await refused(gateway)
    for name in ("flat", "shop"):
        usage = (await gateway.json("GET", f"/v1/documents/{name}"))["usage"]
        assert (usage["questions"], usage["prompt_tokens"], usage["last_asked_at"]) == (0, 0, None)


async def test_only_what_the_tenant_sees_is_asked(gateway: Gateway) -> None:
    salts = await fill(gateway, flat=YES, shop=NO)
    key = await gateway.new_key("tenant-b")
    own = []
    for name, text in (("flat", FLAT), ("shop", SHOP)):
        await gateway.add(text, id=name, key=key)
        own.append(salt_of_last(gateway))
    gateway.workers[0].bodies.clear()
    await gateway.ask(QUESTION, key=key, status=409)
    assert {body["cache_salt"] for body in gateway.workers[0].bodies} == set(own)
    assert not set(own) & set(salts.values())
