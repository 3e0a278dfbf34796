"""Documents of catalog.yaml beside others: whose they are, that HTTP leaves them alone, and that restarts change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.gateway import Gateway, without_tiers
from tests.fakes.store import MemoryStore
from tests.gateway.catalog import LEASE, Catalog, shelf, until, until_ready

NOTICE = "operator's catalog file"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


async def test_an_entry_with_a_tenant_is_that_tenants_alone(catalog: Catalog) -> None:
    catalog.declare("lease, tenant: tenant-b", "expenses")
    async with catalog.gateway().running() as gateway:
        b = await gateway.new_key("tenant-b")
        assert set(await shelf(gateway)) == {"expenses"}
        found = await shelf(gateway, b)
        assert set(found) == {"lease", "expenses"}
        assert (found["lease"]["shared"], found["expenses"]["shared"]) == (False, True)
        await gateway.json("GET", "/v1/documents/lease", status=404)


async def test_one_id_may_be_declared_for_all_and_for_a_tenant(catalog: Catalog) -> None:
    catalog.declare("lease, title: All's", "lease, title: B's, tenant: tenant-b")
    async with catalog.gateway().running() as gateway:
        b = await gateway.new_key("tenant-b")
        assert (await shelf(gateway))["lease"]["title"] == "All's"
        assert (await shelf(gateway, b))["lease"]["title"] == "B's"


async def test_a_declared_document_can_not_be_changed_over_http(catalog: Catalog) -> None:
    catalog.declare("lease", "expenses, tenant: tenant-a")
    async with catalog.gateway().running() as gateway:
        before = await shelf(gateway)
        for name, shared in (("lease", True), ("expenses", False)):
            new = {"id": name, "text": "Other.", "shared": shared}
            refused = [
                await gateway.json("POST", "/v1/documents", json=new, status=409),
                await gateway.json("PATCH", f"/v1/documents/{name}", json={"title": "x"}, status=409),
                await gateway.json("DELETE", f"/v1/documents/{name}", status=409),
            ]
            assert all(answer["error"]["code"] == "conflict" and NOTICE in answer["error"]["message"] for answer in refused)
        after = await shelf(gateway)
        assert [(d["title"], d["updated_at"]) for d in after.values()] == [(d["title"], d["updated_at"]) for d in before.values()]
        await gateway.add("# Mine\n\nA tenant may still have its own.", id="lease")
        assert (await shelf(gateway))["lease"]["shared"] is False


@pytest.mark.parametrize("text", [LEASE, "# Other\n\nWords."], ids=["the same content", "other content"])
async def test_what_is_declared_takes_over_a_shared_document_of_its_id(catalog: Catalog, text: str) -> None:
    store = MemoryStore()
    async with Gateway(catalog.folder.parent, store=store).running() as before:
        await before.add(text, id="lease", shared=True)
    catalog.declare("lease")
    async with catalog.gateway(store=store).running() as gateway:
        assert (await shelf(gateway))["lease"]["source"] == "catalog"
        catalog.declare("expenses")
        await until(gateway, {"expenses"})


async def test_nothing_is_read_again_after_a_restart(catalog: Catalog) -> None:
    store = MemoryStore()
    catalog.declare("lease")
    async with catalog.gateway(store=store).running() as first:
        await until_ready(first, "lease")
        before = without_tiers((await shelf(first)).values())
    async with catalog.gateway(store=store, host=first.host).running() as second:
        assert without_tiers((await shelf(second)).values()) == before
        assert second.workers[0].bodies == []


async def test_changes_while_no_gateway_runs_are_found_at_the_next_start(catalog: Catalog) -> None:
    store = MemoryStore()
    catalog.declare("lease")
    async with catalog.gateway(store=store).running() as first:
        await first.add("# Mine\n\nOver HTTP.", id="mine")
    catalog.declare("expenses")
    async with catalog.gateway(store=store).running() as second:
        assert set(await shelf(second)) == {"expenses", "mine"}
