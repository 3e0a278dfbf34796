"""Limits as a client meets them: what is refused, what that costs, and what every answer says is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN

from backends.base import Usage
from gateway.asking.course import Course
from gateway.sections import Gathering
from router.errors import EngineFailed, EngineUnavailable
from router.limits import Rates
from tests.fakes.engine import Fault, Gate
from tests.fakes.gateway import Gateway, booked, eventually, sse
from tests.gateway.limited import LEASE, Limited

ANSWER = 100
SUFFIX = 121
"""The question's tokens behind the document's prefix, by the fakes' tokenizer."""
MOST = SUFFIX + ANSWER
DOCUMENT = 176
SPENT = 28
"""What such a question takes: some of the instruction behind the document is cached as well."""


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Limited]:
    """One document read, nothing limited yet."""
    async with Limited(tmp_path).running() as running:
        await running.add(LEASE, id="lease")
        yield running


def ask(gateway: Gateway, *, key: str | None = None, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"messages": [{"role": "user", "content": "What is the deposit?"}], "document": "lease", "max_tokens": ANSWER, **fields}
    return gateway.request("POST", "/v1/chat/completions", json=body, key=key, headers=headers or {})


async def status(gateway: Gateway, **fields: Any) -> int:
    async with ask(gateway, **fields) as response:
        await response.read()
        return int(response.status)


async def costs(gateway: Limited) -> tuple[Any, Any]:
    """What is used of requests and tokens, as operators see it."""
    await booked()
    used = (await gateway.used())["used"]
    return used["requests"], used["tokens"]


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


# --- what came to nothing is given back, the rest settled


async def test_what_was_reserved_is_settled_by_the_usage(limited: Limited) -> None:
    await limited.limit(requests_per_minute=10, tokens_per_minute=1000, token_budget=5000)
    gate = Gate(limited.workers[0])
    asking = asyncio.create_task(status(limited))
    await gate.reached()
    used = (await limited.used())["used"]
    assert (used["tokens"], used["budget"]["used"], used["budget"]["reserved"], used["streams"]) == (MOST, MOST, MOST, None)
    gate.open()
    assert await asking == 200
    await booked()
    used = (await limited.used())["used"]
    assert (used["tokens"], used["budget"]["used"], used["budget"]["reserved"]) == (SPENT, SPENT, 0)
    async with ask(limited) as response:
        assert response.headers["x-ratelimit-limit-tokens"] == "1000"
        assert response.headers["x-ratelimit-remaining-tokens"] == str(1000 - SPENT - MOST)


def test_what_a_question_has_spent_at_its_end() -> None:
    course = Course(INVALID_SPAN)
    assert course.spent(50) == 0, "nothing before its first token"
    course.first_token()
    course.deltas = 3
    assert course.spent(50) == 53, "what it was thought to take and what came, while there is no usage"
    course.usage = Usage(prompt_tokens=100, completion_tokens=4, cached_tokens=80)
    assert course.spent(50) == 24


async def test_a_cold_question_pays_for_the_document(limited: Limited) -> None:
    await limited.limit(tokens_per_minute=1000)
    async with ask(limited, headers={"cache-control": "no-cache"}) as response:
        assert response.headers["x-ratelimit-remaining-tokens"] == str(1000 - DOCUMENT - MOST)
        usage = (await response.json())["usage"]
    assert (await costs(limited))[1] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"document": "nowhere"}, 404),
        ({"document": None, "messages": [{"role": "user", "content": "xyzzy"}]}, 404),
        ({"document": "pending"}, 409),
        ({"max_tokens": 9999}, 400),
        ({"frobnicate": 1}, 400),
    ],
)
async def test_a_question_that_is_wrong_takes_a_request_and_no_tokens(limited: Limited, fields: dict[str, Any], code: int) -> None:
    gate = Gate(limited.workers[0], lambda body: body["max_tokens"] == 1)  # only readings are held
    await limited.add("# Pending\n\nIt is being read.", id="pending", ready=False)
    await gate.reached()
    await limited.limit(requests_per_minute=10, tokens_per_minute=1000, streams=1)
    assert await status(limited, **fields) == code
    assert await costs(limited) == (1, 0)
    assert (await limited.used())["used"]["streams"] == 0
    gate.open()


@pytest.mark.parametrize("error", [EngineUnavailable("It is away."), EngineFailed("It broke.")])
async def test_a_question_that_its_worker_fails_costs_nothing(limited: Limited, error: Any) -> None:
    await limited.limit(requests_per_minute=10, tokens_per_minute=1000, token_budget=1000, streams=1)
    limited.workers[0].faults.append(Fault(error, at=0))
    assert await status(limited) in (502, 503)
    assert await costs(limited) == (0, 0)
    assert (await limited.used())["used"]["budget"]["used"] == 0
    await eventually(limited.ready)
    assert await status(limited) == 200


async def test_a_client_that_leaves_before_the_first_token_pays_nothing(limited: Limited) -> None:
    await limited.limit(requests_per_minute=10, tokens_per_minute=1000, streams=1)
    gate = Gate(limited.workers[0])
    asking = asyncio.create_task(status(limited))
    await gate.reached()
    assert (await costs(limited))[0] == 1
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    async def is_free() -> bool:
        used = (await limited.used())["used"]
        return (used["requests"], used["tokens"], used["streams"]) == (0, 0, 0)

    await eventually(is_free)
    gate.open()
    assert await status(limited) == 200


async def test_a_client_that_leaves_midway_pays_for_what_was_generated(limited: Limited) -> None:
    await limited.limit(requests_per_minute=10, tokens_per_minute=1000, streams=1)
    gate = Gate(limited.workers[0], at=2)
    async with ask(limited, stream=True) as response:
        await gate.reached()
        async for line in response.content:
            if b'"is "' in line:
                break
        response.close()

    async def is_over() -> bool:
        used = (await limited.used())["used"]
        return bool(used["streams"] == 0)

    await eventually(is_over)
    assert await costs(limited) == (1, SUFFIX + 2)
    gate.open()


async def test_an_answer_that_breaks_off_is_paid_as_far_as_it_came(limited: Limited) -> None:
    await limited.limit(requests_per_minute=10, tokens_per_minute=1000)
    limited.workers[0].faults.append(Fault(EngineFailed("It broke.", started=True), at=1))
    async with ask(limited, stream=True) as response:
        events = sse(await response.text())
    assert "error" in events[-1][1]
    assert await costs(limited) == (1, SUFFIX + 1)


async def test_parts_are_charged_each_and_all_given_back_where_the_whole_fails(tmp_path: Path) -> None:
    gathering = Gathering(max_documents=2, part_tokens=10)
    async with Limited(tmp_path, gathering=gathering).running() as gateway:
        await gateway.add(LEASE, id="lease")
        await gateway.add("# Policy\n\nTaxis need a receipt.", id="policy")
        await gateway.limit(requests_per_minute=10, tokens_per_minute=10_000)
        worker = gateway.workers[0]
        async with ask(gateway, document=None, documents=["lease", "policy"]) as response:
            usage = (await response.json())["usage"]
            assert response.status == 200
        computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] + usage["completion_tokens"]
        assert await costs(gateway) == (1, computed)
        asked = len(worker.bodies)

        async def fail_the_joining(_: int) -> None:
            if len(worker.bodies) == asked + 3:
                raise EngineFailed("It broke.")

        worker.before_delta = fail_the_joining
        assert await status(gateway, document=None, documents=["lease", "policy"]) == 502
        assert await costs(gateway) == (1, computed)
