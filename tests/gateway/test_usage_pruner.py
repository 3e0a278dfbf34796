"""Usage is kept for so many days and then removed; what is told of the days that are kept does not change by it."""

from __future__ import annotations

import asyncio
import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sections import Usage
from gateway.upkeep import usage_pruner
from gateway.upkeep.usage_pruner import UsagePruner, first_kept
from router.usage import BY, Used
from tests.fakes.gateway import Gateway, booked, eventually
from tests.fakes.store import MemoryStore

NOON = 1_795_521_600.0  # 2026-11-24T12:00Z
TODAY = datetime.date(2026, 11, 24)
DAY_S = 86_400


def day(ago: int) -> str:
    return (TODAY - datetime.timedelta(days=ago)).isoformat()


def used(ago: int, **changes: Any) -> Used:
    return Used(**{"tenant": "tenant-a", "key": "k1", "document": "lease", "day": day(ago), "questions": 1, **changes})


ROWS = st.lists(
    st.builds(
        used,
        st.integers(0, 9),
        tenant=st.sampled_from("ab"),
        key=st.sampled_from("kl"),
        document=st.sampled_from(["", "lease"]),
        questions=st.integers(1, 5),
        prompt_tokens=st.integers(0, 100),
    ),
    max_size=20,
)


@given(rows=ROWS, keep_days=st.integers(1, 10), hour=st.integers(0, 23))
def test_what_is_told_of_kept_days_does_not_change(rows: list[Used], keep_days: int, hour: int) -> None:
    async def check() -> None:
        store = MemoryStore()
        await store.open()
        await store.add_usage(rows)
        now = NOON + (hour - 12) * 3600

        async def told() -> list[list[Used]]:
            groups = [by for size in range(len(BY) + 1) for by in combinations(BY, size)]
            return [
                await store.usage(since=day(keep_days), until=day(0), tenant=tenant, by=by, most=100)
                for by in groups
                for tenant in (None, "a")
            ]

        before = await told()
        await UsagePruner(store, keep_days=keep_days, now=lambda: now).prune(keep_days)
        assert await told() == before
        assert not await store.usage(since="0001-01-01", until=day(keep_days + 1), tenant=None, by=("day",), most=100)

    asyncio.run(check())


@pytest.mark.parametrize("keep_days", [1, 400, 36_500])
def test_the_first_day_that_is_kept(keep_days: int) -> None:
    assert first_kept(NOON, keep_days) == day(keep_days)
    assert first_kept(NOON + 12 * 3600 - 0.001, keep_days) == day(keep_days)
    assert first_kept(NOON + 12 * 3600, keep_days) == day(keep_days - 1)


async def test_it_is_removed_at_start_and_the_rest_is_told_as_before(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.open()
    await store.add_usage([used(ago) for ago in (0, 30, 400, 401, 2000)])
    async with Gateway(tmp_path, store=store, now=lambda: NOON).running() as gateway:

        async def days() -> list[str]:
            found = await gateway.json("GET", "/v1/usage?from=2000-01-01&by=day")
            return [row["day"] for row in found["data"]]

        await eventually(lambda: _is(days, [day(400), day(30), day(0)]))


async def _is(found: Any, expected: Any) -> bool:
    return bool(await found() == expected)


class Away(MemoryStore):
    """Half a day passes at each call; the second one fails."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.asked: list[str] = []

    async def remove_usage(self, before: str) -> int:
        self.asked.append(before)
        self.now += DAY_S / 2
        self.fault = "The database is away." if len(self.asked) == 2 else None
        return await super().remove_usage(before)


@pytest.mark.parametrize(("every_s", "retry_s", "asked"), [(0, 0, 4), (0, 3600, 2), (3600, 0, 1)])
async def test_it_is_removed_again_and_again_and_sooner_where_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch, every_s: float, retry_s: float, asked: int
) -> None:
    assert (usage_pruner.EVERY_S, usage_pruner.RETRY_S) == (DAY_S, 60)
    monkeypatch.setattr(usage_pruner, "EVERY_S", every_s)
    monkeypatch.setattr(usage_pruner, "RETRY_S", retry_s)
    store = Away()
    await store.open()
    running = asyncio.create_task(UsagePruner(store, keep_days=1, now=lambda: store.now).run())
    await booked()
    running.cancel()
    days = [day(1), day(0), day(0), day(-1)]
    assert store.asked[:4] == days[:asked]


async def test_nothing_is_removed_where_everything_is_kept(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.open()
    await store.add_usage([used(36_500)])
    await UsagePruner(store, keep_days=None, now=lambda: NOON).run()
    assert len(await store.usage(since="0001-01-01", until=day(0), tenant=None, by=("day",), most=9)) == 1


def test_it_is_400_days_unless_something_else_is_said() -> None:
    assert Usage().keep_days == 400
