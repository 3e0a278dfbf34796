"""Usage counted in memory: when it reaches the database, and that nothing is lost or counted twice on the way. And its tables."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gateway.tenants.usage import UsageBooks
from gateway.tenants.usage_report import DAYS, MOST, as_csv, checked, plain, wanted
from router.errors import InvalidRequest
from router.usage import BY, Used
from tests.fakes.store import MemoryStore

TODAY = "2026-11-24"
NOON = 1_795_521_600.0  # 2026-11-24T12:00Z


class Held(MemoryStore):
    """Adds usage once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def add_usage(self, rows: Sequence[Used]) -> None:
        self.reached.set()
        await self.go.wait()
        await super().add_usage(rows)


@pytest.fixture
async def store() -> AsyncIterator[Held]:
    made = Held()
    await made.open()
    made.go.set()
    return made


def used(**changes: Any) -> Used:
    return Used(**{"tenant": "acme", "key": "k1", "document": "lease", "day": TODAY, "questions": 1, **changes})


async def stored(store: Held) -> int:
    rows = await store.usage(since="0001-01-01", until="9999-12-31", tenant=None, by=BY, most=100)
    return sum(row.questions for row in rows)


async def test_what_was_counted_is_in_the_report_at_once(store: Held) -> None:
    books = UsageBooks(store, now=lambda: NOON)
    for _ in range(3):
        books.book(used())
    books.book(used(tenant="b"))
    (row,) = await books.report(since=TODAY, until=TODAY, tenant="acme", by=BY, most=10)
    assert row == used(questions=3)


async def test_a_day_is_utcs(store: Held) -> None:
    clock = [NOON]
    books = UsageBooks(store, now=lambda: clock[0])
    assert books.today == TODAY
    clock[0] += 12 * 3600 - 0.001
    assert books.today == TODAY
    clock[0] += 0.001
    assert books.today == "2026-11-25"
    clock[0] -= 3600
    assert books.today == TODAY


async def test_what_the_database_does_not_take_is_kept_and_not_counted_twice(store: Held) -> None:
    books = UsageBooks(store, now=lambda: NOON)
    books.book(used())
    store.fault = "The database is away."
    await books.save()
    books.book(used())
    store.fault = None
    await books.save()
    await books.save()
    assert await stored(store) == 2


async def test_a_clean_end_loses_nothing_though_it_comes_while_a_save_is_under_way(store: Held) -> None:
    books = UsageBooks(store, now=lambda: NOON)
    running = asyncio.create_task(books.run())
    await asyncio.sleep(0)
    store.go.clear()
    books.book(used())
    saving = asyncio.create_task(books.save())
    await store.reached.wait()
    books.book(used())  # while the first one is being stored
    running.cancel()
    saving.cancel()  # as where a client of the report leaves
    await asyncio.sleep(0)
    store.go.set()
    await asyncio.gather(running, saving, return_exceptions=True)
    assert await stored(store) == 2


# --- the tables


@pytest.mark.parametrize("mark", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(mark: str) -> None:
    row = used(tenant=f"{mark}1+cmd|'/C calc'!A0", document=f'{mark}HYPERLINK("http://evil")', key=mark)
    cells = next(csv.DictReader(io.StringIO(as_csv([row], BY))))
    assert (cells["tenant"], cells["document"], cells["key"]) == tuple(f"'{text}" for text in (row.tenant, row.document, row.key))
    assert cells["questions"] == "1"


def test_a_table_has_what_it_is_grouped_by_and_the_counts() -> None:
    rows = [used(saved_s=1.23456, prompt_tokens=10)]
    assert as_csv(rows, ["tenant", "day"]).splitlines() == [
        "tenant,day,questions,parts,refused,prompt_tokens,cached_tokens,completion_tokens,saved_s",
        f"acme,{TODAY},1,0,0,10,0,0,1.235",
    ]
    assert list(plain(rows, [])[0]) == [
        "questions",
        "parts",
        "refused",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "saved_s",
    ]


def test_what_may_be_asked_for() -> None:
    all_ = wanted(None, None, None, today=TODAY)
    assert (all_.since, all_.until, all_.by) == ("2026-10-26", TODAY, BY)
    assert DAYS == 30
    some = wanted("2026-11-01", "2026-11-02", "day, tenant,day", today=TODAY)
    assert (some.since, some.until, some.by) == ("2026-11-01", "2026-11-02", ("day", "tenant"))
    assert wanted(None, "0001-01-02", None, today=TODAY).since == "0001-01-01"


@pytest.mark.parametrize(
    ("since", "until", "by", "words"),
    [
        ("yesterday", None, None, "`from` must be a day as 2026-11-24; 'yesterday'"),
        (None, "2026-02-30", None, "`to` must be a day"),
        ("2026-11-02", "2026-11-01", None, "`from` 2026-11-02 is after `to` 2026-11-01"),
        (None, None, "tenant,salary", "'salary' is none of them"),
        (None, None, "", "'' is none of them"),
    ],
)
def test_what_makes_no_sense_is_explained(since: str | None, until: str | None, by: str | None, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wanted(since, until, by, today=TODAY)
    assert words in str(caught.value)


def test_a_report_of_too_many_rows_is_refused() -> None:
    rows = [used()] * (MOST + 1)
    assert checked(rows[:MOST])
    with pytest.raises(InvalidRequest, match="more than 100,000 rows"):
        checked(rows)
