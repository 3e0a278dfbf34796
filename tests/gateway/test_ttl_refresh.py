"""A question moves its document's expiry on, where so configured."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Retention
from router.errors import EngineFailed
from tests.fakes.engine import Fault
from tests.fakes.gateway import Gateway, booked

QUESTION = "What is it about?"
TTL_S = 100.0


class Clock:
    def __init__(self) -> None:
        self.now = 1.75e9

    def __call__(self) -> float:
        return self.now


def gateway(folder: Path, clock: Clock, *, refresh: bool = True) -> Gateway:
    return Gateway(folder, now=clock, retention=Retention(ttl_refresh=refresh))


async def left(running: Gateway, clock: Clock) -> Any:
    """Seconds until the document expires; None for without end."""
    await booked()
    expire_at = (await running.json("GET", "/v1/documents/a"))["expire_at"]
    return datetime.fromisoformat(expire_at).timestamp() - clock.now if expire_at is not None else None


@pytest.mark.parametrize(("refresh", "expected"), [(True, TTL_S), (False, 40.0)])
async def test_a_question_moves_the_expiry_on_if_so_configured(tmp_path: Path, refresh: bool, expected: float) -> None:
    clock = Clock()
    async with gateway(tmp_path, clock, refresh=refresh).running() as running:
        await running.add("# a\n\nWords.", id="a", ttl_s=TTL_S)
        clock.now += 60
        await running.ask(QUESTION, document="a")
        assert await left(running, clock) == pytest.approx(expected, abs=0.01)


async def test_also_a_streamed_one_and_one_that_names_no_document(tmp_path: Path) -> None:
    clock = Clock()
    async with gateway(tmp_path, clock).running() as running:
        await running.add("# a\n\nWords about leases.", id="a", ttl_s=TTL_S)
        for body in ({"document": "a", "stream": True}, {}):
            clock.now += 60
            body = {"messages": [{"role": "user", "content": "Words about leases?"}], **body}
            async with running.request("POST", "/v1/chat/completions", json=body) as response:
                assert response.status == 200
                await response.read()
            assert await left(running, clock) == pytest.approx(TTL_S, abs=0.01)


async def test_a_question_that_fails_moves_nothing(tmp_path: Path) -> None:
    clock = Clock()
    async with gateway(tmp_path, clock).running() as running:
        await running.add("# a\n\nWords.", id="a", ttl_s=TTL_S)
        clock.now += 60
        running.workers[0].faults = [Fault(EngineFailed("too odd"))]
        await running.ask(QUESTION, document="a", status=502)
        assert await left(running, clock) == pytest.approx(40.0, abs=0.01)


async def test_what_has_expired_stays_so(tmp_path: Path) -> None:
    clock = Clock()
    async with gateway(tmp_path, clock).running() as running:
        await running.add("# a\n\nWords.", id="a", ttl_s=TTL_S)
        clock.now += TTL_S
        assert (await running.ask(QUESTION, document="a"))["choices"]
        assert await left(running, clock) == pytest.approx(0.0, abs=0.01)


async def test_what_has_no_ttl_gets_none(tmp_path: Path) -> None:
    clock = Clock()
    async with gateway(tmp_path, clock).running() as running:
        await running.add("# a\n\nWords.", id="a")
        await running.ask(QUESTION, document="a")
        assert await left(running, clock) is None
        await running.json("PATCH", "/v1/documents/a", json={"expire_at": datetime.fromtimestamp(clock.now + 50, UTC).isoformat()})
        clock.now += 10
        await running.ask(QUESTION, document="a")
        assert await left(running, clock) == pytest.approx(40.0, abs=0.01)


async def test_a_question_does_not_fail_for_a_database_that_is_away(tmp_path: Path) -> None:
    clock = Clock()
    async with gateway(tmp_path, clock).running() as running:
        await running.add("# a\n\nWords.", id="a", ttl_s=TTL_S)
        await running.ask(QUESTION, document="a")
        clock.now += 60
        running.store.fault = "is away"  # type: ignore[attr-defined]
        answer = await running.ask(QUESTION, document="a")
        assert answer["choices"]
        running.store.fault = None  # type: ignore[attr-defined]
        assert await left(running, clock) == pytest.approx(40.0, abs=0.01)
