"""What several gateways count together: the rules of `router/counts.py`, kept by a server that all of them ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from backends.shared_counts import LEASE_S, Away, SharedCounts
from router.counts import Counts
from router.limits import Charge, Used, Window, minute
from tests.fakes import valkey

NOW = 1_700_000_040.0


@contextmanager
def server(kind: str, folder: Path) -> Iterator[str]:
    with valkey.fake() if kind == "fake" else valkey.real(folder) as url:
        yield url


@pytest.fixture(params=["fake", "real"])
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[SharedCounts, SharedCounts]]:
    """Two gateways' counts over one server."""
    if request.param == "real" and valkey.SERVER is None:
        pytest.skip("no valkey-server or redis-server is installed")
    with server(request.param, tmp_path) as url:
        async with AsyncExitStack() as cleanup:
            made = []
            for _ in range(2):
                made.append(SharedCounts(url, timeout_s=20))
                cleanup.push_async_callback(made[-1].close)
                await made[-1].open()
            yield made[0], made[1]


async def test_two_gateways_let_in_no_more_than_allowed_together(two: tuple[SharedCounts, SharedCounts]) -> None:
    window = minute(NOW)
    charges = [Charge("tokens/a", 35, 5, window), Charge("requests/a", 100, 1, window)]
    found = await asyncio.gather(*(two[number % 2].take(charges, NOW) for number in range(100)))
    assert sum(taken.refused is None for taken in found) == 7
    assert {taken.refused for taken in found} == {None, 0}
    _, requests = (await two[0].take([Charge("tokens/a", 35, 0, window), Charge("requests/a", 100, 0, window)], NOW)).used
    assert requests == Used(7, 0), "what one limit refuses, the other is not charged"


async def test_it_counts_as_one_gateway_alone_does(two: tuple[SharedCounts, SharedCounts]) -> None:
    alone = Counts()
    for seconds, amount, back in (
        (0, 30, 5),
        (50, 40, 0),
        (59, 31, 0),
        (61, 5, 5),
        (75, 20, 0),
        (100, 35, 10),
        (125, 90, 0),
        (190, 1, 0),
    ):
        now = NOW + seconds
        charge = Charge("a", 100, amount, minute(now))
        here, there = alone.take([charge], now), await two[0].take([charge], now)
        assert (list(here.used), here.refused) == (list(there.used), there.refused)
        if back:
            given = [Charge("a", 100, back, minute(now))]
            alone.give(given)
            await two[1].give(given, now)
    assert alone.used("a", minute(NOW + 190)) != Used()


async def test_what_is_given_back_late_stays_in_its_window(two: tuple[SharedCounts, SharedCounts]) -> None:
    charge = Charge("a", 10, 8, minute(NOW))
    await two[0].take([charge], NOW)
    later = NOW + 70
    await two[1].give([charge], later)
    taken = await two[0].take([Charge("a", 10, 10, minute(later))], later)
    assert (taken.used, taken.refused) == ([Used(10, 0)], None)


async def test_a_budget_is_kept_as_long_as_its_period(two: tuple[SharedCounts, SharedCounts]) -> None:
    day = Window(19675, NOW - 3600, NOW + 82_800, sliding=False)
    await two[0].take([Charge("budget/day/a", 10, 8, day)], NOW)
    taken = await two[1].take([Charge("budget/day/a", 10, 3, day)], NOW + 80_000)
    assert taken.refused == 0
    key = two[0]._key(Charge("budget/day/a", 10, 0, day), day.number)
    assert 82_800 < await two[0]._client.ttl(key) <= 82_860


async def test_questions_under_way_are_leases_that_expire(two: tuple[SharedCounts, SharedCounts]) -> None:
    accounts = [("streams/a", 3), ("streams/k", 2)]
    found = await asyncio.gather(*(two[n % 2].lease(accounts, f"l{n}", NOW) for n in range(20)))
    assert (found.count(None), found.count(1)) == (2, 18)
    assert await two[0].leases("streams/a", NOW) == 2, "the key's limit takes no place of the tenant's"
    held = next(f"l{n}" for n, refused in enumerate(found) if refused is None)
    await two[1].release(["streams/a", "streams/k"], held)
    assert await two[0].lease(accounts, "again", NOW) is None
    await two[0].renew(["streams/a", "streams/k"], "again", NOW + LEASE_S - 1)
    assert await two[0].lease(accounts, "late", NOW + LEASE_S) is None, "one that nobody renews is free again"
    assert await two[1].lease(accounts, "later", NOW + LEASE_S) == 1


async def test_a_server_that_is_away_is_said(unused_tcp_port: int) -> None:
    counts = SharedCounts(f"redis://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(Away):
        await counts.take([Charge("a", 1, 1, minute(NOW))], NOW)
    with pytest.raises(Away):
        await counts.lease([("a", 1)], "l", NOW)
    await counts.close()
