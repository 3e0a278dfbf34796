"""Limits as a client meets them: what is refused, what that costs, and what every answer says is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.limits import Rates
from tests.fakes.engine import Gate
from tests.fakes.gateway import booked, eventually
from tests.gateway.limited import LEASE, MOST, SPENT, Limited, ask, costs, status


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Limited]:
    """One document read, nothing limited yet."""
    async with Limited(tmp_path).running() as running:
        await running.add(LEASE, id="lease")
        yield running


# --- requests


async def test_without_limits_no_answer_tells_of_any(limited: Limited) -> None:
    async with ask(limited) as response:
        assert response.status == 200
        assert not [name for name in response.headers if "ratelimit" in name.lower()]


async def test_requests_are_counted_on_every_route_and_told(limited: Limited) -> None:
    await limited.limit(requests_per_minute=3)
    for left in (2, 1):
        async with limited.request("GET", "/v1/documents") as response:
            assert response.headers["x-ratelimit-limit-requests"] == "3"
            assert response.headers["x-ratelimit-remaining-requests"] == str(left)
            assert response.headers["x-ratelimit-reset-requests"] == "2m0s"
    async with limited.request("GET", "/v1/jobs/nowhere") as response:
        assert (response.status, response.headers["x-ratelimit-remaining-requests"]) == (404, "0")
    for path in ("/v1/documents", "/v1/models", "/v1/jobs", "/v1/documents/lease"):
        async with limited.request("GET", path) as response:
            assert response.status == 429
            assert response.headers["retry-after"] == "80"
            assert response.headers.getall("x-ratelimit-remaining-requests") == ["0"]
            error = (await response.json())["error"]
    assert (error["type"], error["code"], error["limit"]) == ("rate_limit_error", "rate_limit_exceeded", 3)
    assert error["message"] == "This tenant may make 3 requests a minute. Try again in 1m20s."
    assert await status(limited) == 429


async def test_health_has_no_limit(limited: Limited) -> None:
    await limited.limit(requests_per_minute=0)
    assert await limited.ready()
    async with limited.request("GET", "/v1/models") as response:
        assert response.status == 429
        assert "retry-after" not in response.headers
        assert response.headers["x-should-retry"] == "false"


async def test_a_minute_slides(limited: Limited) -> None:
    await limited.limit(requests_per_minute=4)
    limited.clock.at += 59.9
    assert [await status(limited) for _ in range(5)] == [200, 200, 200, 200, 429]
    limited.clock.at += 0.2  # the clock's next minute
    assert await status(limited) == 429
    limited.clock.at += 15
    assert [await status(limited) for _ in range(2)] == [200, 429]
    limited.clock.at += 45
    assert [await status(limited) for _ in range(4)] == [200, 200, 200, 429]


async def test_one_tenants_limit_is_not_anothers(limited: Limited) -> None:
    await limited.limit(requests_per_minute=1)
    other = await limited.new_key("tenant-b")
    assert [await status(limited) for _ in range(2)] == [200, 429]
    async with limited.request("GET", "/v1/models", key=other) as response:
        assert response.status == 200


async def test_all_keys_of_a_tenant_share_its_limit_and_each_has_its_own(limited: Limited) -> None:
    await limited.limit(requests_per_minute=3)
    narrow = await limited.new_key("tenant-a", limits=Rates(requests_per_minute=1))
    async with ask(limited, key=narrow) as response:
        assert (response.headers["x-ratelimit-limit-requests"], response.headers["x-ratelimit-remaining-requests"]) == ("1", "0")
    async with ask(limited, key=narrow) as response:
        assert response.status == 429
        assert "This key may make 1 requests a minute" in (await response.json())["error"]["message"]
    assert (await costs(limited))[0] == 1, "what the key's limit refuses is not charged to the tenant"
    assert [await status(limited) for _ in range(3)] == [200, 200, 429]


# --- never one more than allowed


@pytest.mark.parametrize(
    "limits", [{"requests_per_minute": 7}, {"streams": 7}, {"tokens_per_minute": 7 * MOST}, {"token_budget": 8 * MOST - 1}]
)
async def test_of_100_at_once_no_more_than_allowed_are_let_in(limited: Limited, limits: dict[str, int]) -> None:
    await limited.limit(**limits)
    gate = Gate(limited.workers[0])
    starts = [asyncio.create_task(status(limited)) for _ in range(100)]
    await eventually(lambda: len(gate.held) == 7 and sum(task.done() for task in starts) == 93)
    gate.open()
    found = await asyncio.gather(*starts)
    assert (found.count(200), found.count(429)) == (7, 93)


# --- what is refused costs nothing


async def test_a_question_beyond_the_streams_takes_no_request(limited: Limited) -> None:
    await limited.limit(streams=1, requests_per_minute=10, tokens_per_minute=10_000)
    gate = Gate(limited.workers[0])
    first = asyncio.create_task(status(limited))
    await gate.reached()
    before = await costs(limited)
    async with ask(limited) as response:
        assert (response.status, response.headers["retry-after"]) == (429, "1")
        assert "has 1 questions under way" in (await response.json())["error"]["message"]
    assert await costs(limited) == before
    gate.open()
    assert await first == 200
    assert await status(limited) == 200


@pytest.mark.parametrize(
    "limits", [{"tokens_per_minute": MOST - 1}, {"token_budget": MOST - 1}, {"tokens_per_minute": 9000, "token_budget": 1}]
)
async def test_a_question_beyond_the_tokens_takes_nothing(limited: Limited, limits: dict[str, int]) -> None:
    await limited.limit(streams=1, requests_per_minute=10, **limits)
    asked = len(limited.workers[0].bodies)
    for _ in range(3):
        assert await status(limited) == 429
    await booked()
    assert len(limited.workers[0].bodies) == asked
    used = (await limited.used())["used"]
    assert (used["requests"], used["tokens"] or 0, used["streams"]) == (0, 0, 0)
    assert (used["budget"] or {"used": 0})["used"] == 0


async def test_a_spent_budget_says_when_the_next_one_begins(limited: Limited) -> None:
    await limited.limit(token_budget=MOST, budget_period="month")
    assert await status(limited) == 200
    async with ask(limited) as response:
        error = (await response.json())["error"]
        assert (response.status, error["type"], error["code"]) == (429, "rate_limit_error", "insufficient_quota")
        assert int(response.headers["retry-after"]) == 1_701_388_800 - limited.clock.at  # 1 December
        assert response.headers["x-should-retry"] == "false"
    assert f"{MOST - SPENT} are left" in error["message"]
    limited.clock.at = 1_701_388_801
    assert await status(limited) == 200
