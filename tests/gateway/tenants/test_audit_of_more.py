"""The audit log has what the catalog file changes, and fitted routing; and nothing where nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Ingestion
from tests.fakes.gateway import RESERVE, Gateway, eventually
from tests.fakes.store import MemoryStore
from tests.gateway.catalog import EXPENSES, LEASE, Catalog, shelf, until, until_ready
from tests.gateway.test_tuning import fill, fit, labelled
from tests.gateway.test_volumes import TEXT


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


async def told(gateway: Gateway) -> list[tuple[Any, ...]]:
    """What, of what, whose and with which details; the oldest first."""
    return [(entry.action, entry.target, entry.tenant, entry.details) for entry in reversed(await gateway.store.audit(limit=100))]


async def until_told(gateway: Gateway, number: int) -> list[tuple[Any, ...]]:
    async def holds() -> bool:
        return len(await told(gateway)) >= number

    await eventually(holds)
    return await told(gateway)


async def test_what_the_catalog_file_adds_changes_and_removes_is_told(catalog: Catalog) -> None:
    catalog.declare("lease", "expenses, tenant: tenant-b")
    async with catalog.gateway().running() as gateway:
        shared = {"shared": True}
        added = [("document.add", "lease", "", shared), ("document.add", "expenses", "tenant-b", {})]
        assert await told(gateway) == added
        await until_ready(gateway, "lease")
        catalog.text("lease", LEASE + " Or more.")
        changed = [*added, ("document.replace", "lease", "", shared)]
        assert await until_told(gateway, 3) == changed
        catalog.declare("lease", "expenses, tenant: tenant-b, title: Renamed")
        changed.append(("document.replace", "expenses", "tenant-b", {}))
        assert await until_told(gateway, 4) == changed
        catalog.declare("lease", "expenses, tenant: tenant-b, title: Renamed, pinned: true")
        changed.append(("document.replace", "expenses", "tenant-b", {}))
        assert await until_told(gateway, 5) == changed
        catalog.declare("expenses, tenant: tenant-b, title: Renamed, pinned: true")
        await until(gateway, set())
        assert await told(gateway) == [*changed, ("document.remove", "lease", "", shared)]
        entries = await gateway.store.audit(limit=100)
        assert {(entry.actor, entry.origin) for entry in entries} == {("catalog", "catalog.yaml")}
        assert not [entry for entry in entries if "2,400" in str(entry) or str(catalog.folder) in str(entry)]


async def test_a_file_that_is_applied_again_tells_nothing(catalog: Catalog) -> None:
    store = MemoryStore()
    catalog.declare("lease, ttl_s: 3600", "expenses, title: Costs")
    async with catalog.gateway(store=store).running() as first:
        for name in ("lease", "expenses"):
            await until_ready(first, name)
        before = await told(first)
        catalog.text("lease", LEASE + "\n\n")  # another file, the same text
        catalog.declare("lease, ttl_s: 3600", "expenses, title: Costs")
        await first.add("# Mine\n\nOver HTTP.", id="mine")
        catalog.declare("lease, ttl_s: 3600", "expenses, title: Costs, tags: [money]")
        after = await until_told(first, len(before) + 2)
        assert [entry[:2] for entry in after[len(before) :]] == [("document.add", "mine"), ("document.replace", "expenses")]
    async with catalog.gateway(store=store, host=first.host).running() as second:
        assert await told(second) == after
    async with catalog.gateway(store=store, host=first.host, versions={"vllm": "1"}).running() as third:
        await until_ready(third, "expenses")
        assert await told(third) == after, "what is read anew for another engine is no change"


async def test_a_problem_of_one_document_tells_of_the_others_alone(catalog: Catalog) -> None:
    catalog.text("lease", "word " * 9000)
    catalog.declare("lease", "expenses")
    async with catalog.gateway().running() as gateway:
        assert [entry[1] for entry in await told(gateway)] == ["expenses"]


async def test_what_the_file_takes_over_is_told(catalog: Catalog) -> None:
    store = MemoryStore()
    async with Gateway(catalog.folder.parent, store=store).running() as before:
        await before.add(EXPENSES, id="expenses", shared=True)
    catalog.declare("expenses")
    async with catalog.gateway(store=store).running() as gateway:
        assert (await told(gateway))[1:] == [("document.replace", "expenses", "", {"shared": True})]


async def test_a_document_in_volumes_is_told_of_once(catalog: Catalog) -> None:
    catalog.text("rules", TEXT)
    catalog.declare("rules")
    volumes = Ingestion(answer_reserve_tokens=RESERVE, max_volumes=8)
    async with catalog.gateway(ingestion=volumes).running() as gateway:
        await until_ready(gateway, "rules")
        assert len((await shelf(gateway))["rules"]["volumes"]) > 1
        catalog.declare("lease")
        await until(gateway, {"lease"})
        assert [entry[:2] for entry in await told(gateway)] == [
            ("document.add", "rules"),
            ("document.add", "lease"),
            ("document.remove", "rules"),
        ]


async def test_fitted_routing_is_told_where_it_is_kept_and_where_it_is_reset(gateway: Gateway) -> None:
    await fill(gateway)
    before = len(await told(gateway))
    assert (await fit(gateway, labelled()))["kept"]
    assert not (await fit(gateway, labelled()))["kept"]
    await fit(gateway, labelled()[:3], status=400)
    await gateway.json("DELETE", "/v1/route/fit")
    assert (await told(gateway))[before:] == [
        ("routing.fit", "tenant-a", "tenant-a", {"questions": 30}),
        ("routing.reset", "tenant-a", "tenant-a", {}),
    ]
    reset, kept = await gateway.store.audit(limit=2)
    assert {(entry.actor, entry.origin) for entry in (reset, kept)} == {(gateway.key.split("_")[2], "127.0.0.1")}
