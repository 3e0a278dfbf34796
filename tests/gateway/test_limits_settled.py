"""What a question reserved is given back where nothing came of it, and settled by what it took."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN

from backends.base import Usage
from gateway.asking.course import Course
from gateway.sections import Gathering, Ram, Routing, SecondLook
from gateway.tenants.authenticator import Principal
from router.documents import TenantId
from router.errors import EngineFailed, EngineUnavailable
from router.viewers import Viewer
from tests.fakes.engine import Fault, Gate
from tests.fakes.gateway import booked, eventually, sse
from tests.gateway.limited import DOCUMENT, LEASE, MOST, SPENT, SUFFIX, Limited, ask, costs, status
from tests.gateway.test_second_look import MARGIN, MIN_SCORE, NO, QUESTION, YES, fill, looks, refused


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Limited]:
    """One document read, nothing limited yet."""
    async with Limited(tmp_path).running() as running:
        await running.add(LEASE, id="lease")
        yield running


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
    course = Course(INVALID_SPAN, Principal(Viewer(TenantId("tenant-a")), "k", (), ""))
    course.prompt_tokens, course.believed_tokens = 100, 50
    assert course.computed == 0, "nothing before its first token"
    course.first_token()
    course.generated = 3
    assert course.computed == 53, "what it was thought to take and what came, while there is no usage"
    course.usage = Usage(prompt_tokens=100, completion_tokens=4, cached_tokens=80)
    assert course.computed == 24


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


@pytest.fixture
async def looking(tmp_path: Path) -> AsyncIterator[Limited]:
    routing = Routing(min_score=MIN_SCORE, margin=MARGIN, second_look=SecondLook(time_limit_s=20.0))
    async with Limited(tmp_path, routing=routing, ram=Ram(policy="lru")).running() as running:
        yield running


async def test_a_second_look_is_charged_with_what_it_computed(looking: Limited) -> None:
    await fill(looking, flat=YES, shop=YES)
    await looking.limit(tokens_per_minute=10_000, token_budget=10_000)
    worker = looking.workers[0]
    before = worker.prefilled_tokens
    assert await refused(looking) == ["flat", "shop"]
    computed = worker.prefilled_tokens - before + 2  # and a word of each
    assert await costs(looking) == (None, computed)
    assert (await looking.used())["used"]["budget"]["used"] == computed
    await looking.json("POST", "/v1/route", json={"question": QUESTION, "second_look": True})
    assert (await costs(looking))[1] > computed


async def test_a_second_look_that_the_tokens_have_no_room_for_is_not_taken(looking: Limited) -> None:
    await fill(looking, flat=YES, shop=NO)
    await looking.limit(tokens_per_minute=10)
    assert await refused(looking) == ["flat", "shop"]
    assert (looking.workers[0].bodies, await looks(looking)) == ([], {"no_tokens": 1})
    assert await costs(looking) == (None, 0)
