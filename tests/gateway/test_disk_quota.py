"""What one tenant's documents may take on the disk: its own leave first, and nobody else's because of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.documents import SHARED, Owner
from router.errors import QuotaExceeded, StorageFull
from router.limits import Limits
from tests.gateway.cellar import GIB, OWNER, SIZE, Cellar
from tests.gateway.tiers import SIZE as DOCUMENT
from tests.gateway.tiers import TieredGateway, budget, text

OTHER = Owner("tenant-b")


@pytest.fixture
def cellar() -> Iterator[Cellar]:
    """Room for ten; tenant-a may take that of two."""
    cellar = Cellar(budget_gib=10 * SIZE / GIB)
    cellar.limits[OWNER] = Limits(disk_gib=2 * SIZE / GIB)
    yield cellar
    cellar.ledger.check()
    cellar.telemetry.close()


async def test_beyond_its_quota_a_tenants_least_recently_used_leaves_and_nobody_elses(cellar: Cellar) -> None:
    cellar.add("o", on="a", owner=OTHER)  # older than all
    cellar.add("s", on="a", owner=SHARED)
    cellar.add("x", on="a")
    cellar.add("y", on="a")
    await cellar.keeper.admit(cellar, cellar.add("z", incoming=True), "a")
    assert cellar.on("a") == "osy"
    for name in "pqr":
        new = cellar.add(name, incoming=True, owner=OTHER)
        await cellar.keeper.admit(cellar, new, "a")
        cellar.write(new, "a")
    assert cellar.on("a") == "opqrsy", "the quota is tenant-a's alone"


async def test_what_is_promised_and_not_written_yet_is_taken(cellar: Cellar) -> None:
    first, second, third = (cellar.add(name, incoming=True) for name in "abc")
    await asyncio.gather(cellar.keeper.admit(cellar, first, "a"), cellar.keeper.admit(cellar, second, "a"))
    with pytest.raises(QuotaExceeded, match="being read"):
        await cellar.keeper.admit(cellar, third, "a")
    assert cellar.promised == {"a": 2 * SIZE, "b": 0}
    await cellar.keeper.admit(cellar, third, "b")  # each host's disk is its own
    cellar.keeper.settle(first, "a")
    await cellar.keeper.admit(cellar, third, "a")


async def test_the_whole_disks_budget_holds_as_well(cellar: Cellar) -> None:
    cellar.limits[OWNER] = Limits(disk_gib=50 * SIZE / GIB)
    for name in "abcdefghij":
        cellar.add(name, on="a", owner=OTHER, pinned=True)
    with pytest.raises(StorageFull, match=r"disk\.budget_gib") as caught:
        await cellar.keeper.admit(cellar, cellar.add("k", incoming=True), "a")
    assert not isinstance(caught.value, QuotaExceeded)


async def test_a_document_larger_than_the_quota_is_refused_with_both_numbers(cellar: Cellar) -> None:
    cellar.limits[OWNER] = Limits(disk_gib=2 * 2**20 / GIB)
    tokens = round(3 * 2**20 / SIZE * cellar.add("a").prefix_tokens)
    with pytest.raises(QuotaExceeded, match=r"in the 2 MiB .* 3 MiB are needed and 2 MiB can be had"):
        await cellar.keeper.check(cellar.catalog, OWNER, tokens)
    cellar.limits.clear()
    cellar.limits[OTHER] = Limits(disk_gib=1 / GIB)
    with pytest.raises(StorageFull, match="disk tier has no room"):
        await cellar.keeper.check(cellar.catalog, OWNER, 10**9)


async def test_pinned_ones_stay_and_are_named(cellar: Cellar) -> None:
    for name in "ab":
        cellar.add(name, on="ab", pinned=True)
    new = cellar.add("c", incoming=True)
    with pytest.raises(QuotaExceeded, match="pinned"):
        await cellar.keeper.check(cellar.catalog, OWNER, new.prefix_tokens)
    with pytest.raises(QuotaExceeded, match="pinned"):
        await cellar.keeper.admit(cellar, new, "a")
    assert (cellar.on("a"), cellar.promised["a"]) == ("ab", 0)


async def test_a_quota_that_was_lowered_is_kept_at_the_next_look(cellar: Cellar) -> None:
    for name in "abcd":
        cellar.add(name, on="a", owner=OTHER)
    cellar.add("e", on="a")
    await cellar.keeper.keep(cellar)
    assert cellar.on("a") == "abcde"
    cellar.limits[OTHER] = Limits(disk_gib=2 * SIZE / GIB)
    await cellar.keeper.keep(cellar)
    assert cellar.on("a") == "cde"


def limits_file(folder: Path, documents: int) -> Path:
    path = folder / "tenants.yaml"
    path.write_text(json.dumps({"tenants": {"tenant-a": {"disk_gib": documents * DOCUMENT / GIB}}}))
    return path


async def test_through_the_gateway_a_tenants_own_leave_and_are_read_again_when_asked(tmp_path: Path) -> None:
    gateway = TieredGateway(tmp_path, disk=budget(9), tenants=limits_file(tmp_path, 2))
    async with gateway.running() as running:
        other = await running.new_key("tenant-b")
        await running.add(text("z"), id="z", key=other)
        for name in "abc":
            await running.add(text(name), id=name)
        assert running.on_disk(whole=False) == set("bcz")
        await running.ask("What is it about?", document="a")
        assert running.on_disk(whole=False) <= set("abcz")
        assert len(running.on_disk(whole=False) - {"z"}) <= 2
        assert "z" in running.on_disk()


async def test_through_the_gateway_one_that_is_too_large_is_403_and_nothing_of_it_is_stored(tmp_path: Path) -> None:
    gateway = TieredGateway(tmp_path, disk=budget(9), tenants=limits_file(tmp_path, 2))
    async with gateway.running() as running:
        long = "# Long\n\n" + "word " * 200
        answer = await running.json("POST", "/v1/documents", json={"text": long, "id": "long"}, status=403)
        assert (answer["error"]["code"], answer["error"]["limit"]) == ("quota_exceeded", 2 * DOCUMENT)
        assert (await running.json("GET", "/v1/documents"))["data"] == []
        assert await running.store.documents() == []
        other = await running.new_key("tenant-b")
        await running.add(long, id="long", key=other)
