"""Two gateways that count together, and what they do while the storage is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from backends.settings import Model
from backends.shared_counts import LEASE_S, SharedCounts
from gateway.tenants import counters
from tests.fakes import valkey
from tests.fakes.engine import Gate
from tests.fakes.gateway import CONTEXT, eventually
from tests.fakes.shared_counts import Shared
from tests.gateway.limited import LEASE, Limited

MANY = {"requests_per_minute": 10, "tokens_per_minute": 10_000, "token_budget": 20_000, "streams": 3}


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Limited, Limited]]:
    """Two gateways with one database and one storage, a document read."""
    with valkey.fake() as url:
        async with AsyncExitStack() as running:
            made: list[Limited] = []
            model = Model(name="small", path=tmp_path / "model", context_tokens=CONTEXT)  # one engine: what one read both can ask
            for name in ("one", "other"):
                (tmp_path / name).mkdir()
                counts = SharedCounts(url, timeout_s=20)
                running.push_async_callback(counts.close)
                more: dict[str, Any] = {"store": made[0].store, "host": made[0].host} if made else {}
                gateway = Limited(tmp_path / name, shared_counts=counts, model=model, **more)
                made.append(gateway)
                await running.enter_async_context(gateway.running())
                if len(made) == 1:
                    await gateway.add(LEASE, id="lease")
            yield made[0], made[1]


async def status(gateway: Limited, **fields: Any) -> int:
    body = {"messages": [{"role": "user", "content": "What is the deposit?"}], "document": "lease", "max_tokens": 10, **fields}
    async with gateway.request("POST", "/v1/chat/completions", json=body) as response:
        await response.read()
        return int(response.status)


async def limit(two: tuple[Limited, Limited], **limits: Any) -> None:
    for gateway in two:
        await gateway.limit(**limits)


async def test_requests_of_both_count(two: tuple[Limited, Limited]) -> None:
    await limit(two, requests_per_minute=7)
    found = await asyncio.gather(*(status(two[number % 2]) for number in range(40)))
    assert (found.count(200), found.count(429)) == (7, 33)
    async with two[1].request("GET", "/v1/models") as response:
        assert response.headers["x-ratelimit-remaining-requests"] == "0"


async def test_what_comes_to_nothing_is_given_back_and_the_rest_settled(two: tuple[Limited, Limited]) -> None:
    await limit(two, **MANY)
    gate = Gate(two[0].workers[0])
    asking = asyncio.create_task(status(two[0]))
    await gate.reached()

    async def used(requests: int, tokens: int, streams: int) -> bool:
        found = (await two[1].used())["used"]
        return (found["requests"], found["tokens"], found["budget"]["used"], found["streams"]) == (
            requests,
            tokens,
            tokens,
            streams,
        )

    assert await used(1, 131, 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: used(0, 0, 0))
    gate.open()
    assert await status(two[0]) == 200
    await eventually(lambda: used(1, 28, 0))
    assert await status(two[0], document="nowhere") == 404
    await eventually(lambda: used(2, 28, 0))


async def test_questions_under_way_on_one_count_on_the_other(two: tuple[Limited, Limited]) -> None:
    await limit(two, streams=1)
    gate = Gate(two[0].workers[0])
    asking = asyncio.create_task(status(two[0]))
    await gate.reached()
    assert await status(two[1]) == 429
    for gateway in two:
        gateway.clock.at += LEASE_S + 1
    assert await status(two[1]) == 200, "as after a crash: nobody renewed it"
    gate.open()
    assert await asking == 200


async def test_while_the_storage_is_away_each_counts_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "TEND_EVERY_S", 0.05)
    shared: Any = Shared()
    async with Limited(tmp_path, {"requests_per_minute": 4, "streams": 1}, shared_counts=shared).running() as gateway:
        assert [await status(gateway, document="x") for _ in range(3)] == [404, 404, 404]
        shared.away = True
        assert [await status(gateway, document="x") for _ in range(5)] == [404, 404, 404, 404, 429]
        report = await gateway.health()
        assert (report["status"], "each gateway counts for itself" in report["problems"]["limits"]) == ("degraded", True)
        shared.away = False

        async def is_back() -> bool:
            return bool((await gateway.health())["status"] == "ready")

        await eventually(is_back)
        assert [await status(gateway, document="x") for _ in range(2)] == [404, 429], "three were made before"
