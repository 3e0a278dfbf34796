"""What every `Store` does with usage: the fake, SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.base import Store
from backends.store.sql_store import SqlStore
from router.usage import BY, COUNTS, Used


def used(**changes: Any) -> Used:
    base: dict[str, Any] = {"tenant": "acme", "key": "k1", "document": "lease", "day": "2026-11-24"}
    counts = {"questions": 1, "prompt_tokens": 100, "cached_tokens": 90, "completion_tokens": 7, "saved_s": 0.5}
    return Used(**{**base, **counts, **changes})


async def found(store: Store, **changes: Any) -> list[Used]:
    asked: dict[str, Any] = {"since": "2026-11-01", "until": "2026-11-30", "tenant": None, "by": BY, "most": 100}
    return await store.usage(**{**asked, **changes})


async def test_nothing_was_used(store: Store) -> None:
    await store.add_usage([])
    assert await found(store) == []
    assert await found(store, by=()) == []


async def test_what_is_added_adds_up(store: Store) -> None:
    await store.add_usage([used(), used(document="plan", parts=2, questions=0)])
    await store.add_usage([used(refused=1)])
    assert await found(store) == [
        used(questions=2, refused=1, prompt_tokens=200, cached_tokens=180, completion_tokens=14, saved_s=1.0),
        used(document="plan", parts=2, questions=0),
    ]


async def test_each_of_tenant_key_document_and_day_is_a_row_of_its_own(store: Store) -> None:
    rows = [used(), used(tenant="b"), used(key="k2"), used(document=""), used(day="2026-11-25")]
    await store.add_usage(rows)
    assert sorted(await found(store), key=lambda row: row.place) == sorted(rows, key=lambda row: row.place)


async def test_days_are_both_included_and_one_tenant_sees_its_own(store: Store) -> None:
    rows = [used(day=f"2026-11-{day:02}", tenant=tenant) for day in (1, 2, 3, 4) for tenant in ("acme", "b")]
    await store.add_usage(rows)
    days = await found(store, since="2026-11-02", until="2026-11-03", tenant="b")
    assert [(row.tenant, row.day) for row in days] == [("b", "2026-11-02"), ("b", "2026-11-03")]


async def test_rows_are_grouped_in_order_and_no_more_than_asked_for(store: Store) -> None:
    await store.add_usage([used(tenant=tenant, document=document) for tenant in "cab" for document in "xy"])
    assert [(row.tenant, row.key, row.questions) for row in await found(store, by=["tenant"])] == [
        ("a", "", 2),
        ("b", "", 2),
        ("c", "", 2),
    ]
    assert [row.document for row in await found(store, by=["document", "tenant"], most=4)] == ["x", "x", "x", "y"]
    (whole,) = await found(store, by=())
    assert (whole.questions, whole.place) == (6, ("", "", "", ""))


async def test_a_busy_days_tokens_are_more_than_32_bits_hold(store: Store) -> None:
    many = used(**dict.fromkeys(COUNTS[:-1], 2**40))
    await store.add_usage([many])
    await store.add_usage([many])
    (row,) = await found(store)
    assert row.prompt_tokens == row.questions == 2**41
    assert isinstance(row.prompt_tokens, int)


async def test_any_name_comes_back_as_it_was(store: Store) -> None:
    strange = used(tenant="a\0b", document="naïve\\🦓", key="=1+1")
    await store.add_usage([strange])
    assert await found(store) == [strange]
    assert await found(store, tenant="a\0b") == [strange]


async def test_what_is_removed_is_of_days_before_and_nothing_else(store: Store) -> None:
    days = ["2025-12-31", "2026-11-01", "2026-11-02", "2026-11-03"]
    await store.add_usage([used(day=day, tenant=tenant) for day in days for tenant in ("acme", "b")])
    kept = [row for row in await found(store) if row.day >= "2026-11-02"]
    assert await store.remove_usage("2026-11-02") == 4
    assert await found(store, since="0001-01-01") == kept
    assert await store.remove_usage("2026-11-02") == 0
    await store.add_usage([used(day="2026-11-02")])
    assert (await found(store))[0].questions == 2


@pytest.mark.parametrize("gateways", [4])
async def test_several_gateways_add_to_the_same_rows(database_url: str, gateways: int) -> None:
    stores = [SqlStore(database_url) for _ in range(gateways)]
    for store in stores:
        await store.open()
    documents = [f"d{number}" for number in range(5)]

    async def add(store: SqlStore, number: int) -> None:
        for turn in range(5):
            order = documents if (number + turn) % 2 else documents[::-1]
            await store.add_usage([used(document=document) for document in order])

    await asyncio.gather(*(add(store, number) for number, store in enumerate(stores)))
    assert [row.questions for row in await found(stores[0])] == [5 * gateways] * len(documents)
    for store in stores:
        await store.close()
