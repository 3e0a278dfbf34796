"""What the whole project is for, on the real engine."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.conftest import PROTOCOL, RealGateway
from tests.fakes.gateway import eventually

CHUNK = 256
QUESTION = "What is the number of this contract?"


async def test_a_document_is_read_in_segments_and_stored_whole(engine: RealGateway, contract: dict[str, Any]) -> None:
    assert contract["document_tokens"] > 6000
    assert contract["prefix_tokens"] % CHUNK == 0
    progress = [data["read_tokens"] for event, data in contract["events"] if event == "progress"]
    assert progress == sorted(progress)
    assert len(set(progress)) > 5
    assert len(engine.files()) == contract["prefix_tokens"] // CHUNK


async def test_warm_is_at_least_50_times_faster_than_cold_and_answers_alike(engine: RealGateway, contract: dict[str, Any]) -> None:
    more = {"document": "contract", "logprobs": True, "top_logprobs": 1}
    cold = await engine.ask(QUESTION, cold=True, **more)
    warm = [await engine.ask(QUESTION, **more) for _ in range(5)]
    assert cold["cached_tokens"] == 0
    assert cold["cache-tier"] == "none"
    assert all(answer["cached_tokens"] >= contract["prefix_tokens"] for answer in warm)
    assert [token["token"] for token in warm[-1]["logprobs"]] == [token["token"] for token in cold["logprobs"]]
    for there, here in zip(cold["logprobs"], warm[-1]["logprobs"], strict=True):
        assert abs(there["logprob"] - here["logprob"]) < 1e-2
    fastest = sorted(answer["first_token_s"] for answer in warm)[len(warm) // 2]
    print(f"cold {cold['first_token_s']:.2f} s, warm {fastest:.3f} s: {cold['first_token_s'] / fastest:.0f} times")
    assert cold["first_token_s"] / fastest >= 50


async def test_a_repeated_question_is_served_from_the_gpu_tier(engine: RealGateway, contract: dict[str, Any]) -> None:
    await engine.ask(QUESTION, document="contract")
    answer = await engine.ask("Who are the two parties?", document="contract")
    assert answer["cache-tier"] == "gpu"


async def test_questions_leave_nothing_on_disk(engine: RealGateway, contract: dict[str, Any]) -> None:
    await engine.ask("Tell me everything about the fees of this contract, one after another.", document="contract", max_tokens=64)
    assert len(engine.files()) == contract["prefix_tokens"] // CHUNK


async def test_the_other_worker_answers_from_ram_what_the_first_one_read(engine: RealGateway, contract: dict[str, Any]) -> None:
    first = (await engine.ask(QUESTION, document="contract"))["worker"]
    (other,) = {"worker-1", "worker-2"} - {first}
    restarting = asyncio.create_task(engine.stack.restart(first))
    try:
        answer = await engine.ask("Who signs for the provider?", document="contract")
        while answer["worker"] == first:  # its end was not noticed yet
            answer = await engine.ask("Who signs for the provider?", document="contract")
    finally:
        await restarting
    assert answer["worker"] == other
    assert answer["cache-tier"] == "ram"
    assert answer["cached_tokens"] >= contract["prefix_tokens"]


async def test_another_tenants_identical_document_shares_nothing(engine: RealGateway) -> None:
    text = await asyncio.to_thread(PROTOCOL.read_text, "utf-8")
    text = text[:3000]
    mine = await engine.read("protocol", text)
    other = await engine.new_key("tenant-b")
    before = len(engine.files())
    theirs = await engine.read("protocol", text, key=other)
    assert theirs["prefix_tokens"] == mine["prefix_tokens"]
    assert len(engine.files()) == before + theirs["prefix_tokens"] // CHUNK  # stored anew: no chunk was a hit
    own = await engine.ask("What is this?", document="protocol", key=other)
    assert own["cached_tokens"] >= theirs["prefix_tokens"]


async def test_a_removed_document_leaves_no_file(engine: RealGateway) -> None:
    before = engine.files()
    await engine.read("short", "# Note\n\n" + "The meeting is at nine in the green room. " * 60)
    assert len(engine.files()) > len(before)
    async with engine.session.delete(
        f"{engine.url}/v1/documents/short", headers={"authorization": f"Bearer {engine.key}"}
    ) as response:
        assert response.status == 200
    await eventually(lambda: engine.files() == before, within_s=30)


async def test_without_the_kv_server_questions_go_on(engine: RealGateway, contract: dict[str, Any]) -> None:
    restarting = asyncio.create_task(engine.stack.restart("lmcache"))
    try:
        await eventually(engine.kv_server_is_away, within_s=30)
        answer = await engine.ask("Who signs for the customer?", document="contract")
        assert answer["text"]
        assert await engine.kv_server_is_away()
    finally:
        await restarting


async def test_after_a_restart_of_everything_the_whole_prefix_comes_from_disk(
    engine: RealGateway, contract: dict[str, Any]
) -> None:
    before = await engine.ask(QUESTION, document="contract", logprobs=True)
    await engine.stop()
    await engine.start()
    answer = await engine.ask(QUESTION, document="contract", logprobs=True)
    assert answer["cache-tier"] == "disk"
    assert answer["cached_tokens"] == contract["prefix_tokens"]
    assert answer["text"] == before["text"]
    for there, here in zip(before["logprobs"], answer["logprobs"], strict=True):
        assert abs(there["logprob"] - here["logprob"]) < 1e-2
