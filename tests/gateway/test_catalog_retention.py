"""Pins and times to live in catalog.yaml: applying the file again is no new beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.extraction.extractor import Extractor
from backends.settings import Extraction
from gateway.shelf import catalog_file
from gateway.strict_yaml import ConfigError
from tests.fakes.gateway import Gateway, eventually
from tests.fakes.store import MemoryStore
from tests.gateway.catalog import LEASE, Catalog, shelf, until, until_ready

EXAMPLE = Path(__file__).parents[2] / "configs" / "catalog.example.yaml"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


async def lease(gateway: Gateway) -> Any:
    return (await shelf(gateway))["lease"]


async def test_an_entry_says_how_long_it_is_kept(catalog: Catalog) -> None:
    catalog.declare("lease, pinned: true", "expenses, ttl_s: 3600")
    async with catalog.gateway().running() as gateway:
        found = await shelf(gateway)
        assert (found["lease"]["pinned"], found["lease"]["expire_at"]) == (True, None)
        assert (found["expenses"]["pinned"], found["expenses"]["ttl_s"]) == (False, 3600)
        assert found["expenses"]["expire_at"] is not None
        catalog.declare("lease, ttl_s: 60", "expenses, pinned: true")

        async def is_swapped() -> bool:
            after = await shelf(gateway)
            return (after["lease"]["pinned"], after["lease"]["ttl_s"], after["expenses"]["pinned"]) == (False, 60, True)

        await eventually(is_swapped)
        catalog.declare("lease", "expenses")

        async def is_plain() -> bool:
            after = (await shelf(gateway)).values()
            return not any(d["pinned"] or d["ttl_s"] or d["expire_at"] for d in after)

        await eventually(is_plain)


async def test_a_ttl_counts_from_a_new_text_or_ttl_not_from_each_application(catalog: Catalog) -> None:
    catalog.declare("lease, ttl_s: 3600")
    async with catalog.gateway().running() as gateway:
        await until_ready(gateway, "lease")
        first = await lease(gateway)
        catalog.declare("lease, ttl_s: 3600, summary: Who pays what.", "expenses")
        await until(gateway, {"lease", "expenses"})
        again = await lease(gateway)
        assert (again["summary"], again["expire_at"]) == ("Who pays what.", first["expire_at"])

        async def moved(before: Any) -> Any:
            await eventually(lambda: _moved(gateway, before))
            return await lease(gateway)

        catalog.declare("lease, ttl_s: 7200", "expenses")
        longer = await moved(again)
        assert longer["ttl_s"] == 7200
        catalog.text("lease", LEASE + " The rent is 1,200.")
        renewed = await moved(longer)
        assert renewed["ttl_s"] == 7200


async def _moved(gateway: Gateway, before: Any) -> bool:
    return bool((await lease(gateway))["expire_at"] > before["expire_at"])


async def test_what_has_expired_stays_so_when_the_file_is_applied_again(catalog: Catalog) -> None:
    store = MemoryStore()
    catalog.declare("lease, ttl_s: 0.05")
    async with catalog.gateway(store=store).running() as first:

        async def has_expired() -> bool:
            return bool((await lease(first))["expired"])

        await eventually(has_expired)
        before = await lease(first)
        catalog.declare("lease, ttl_s: 0.05", "expenses")
        await until(first, {"lease", "expenses"})
        assert (await lease(first))["expire_at"] == before["expire_at"]
    async with catalog.gateway(store=store, host=first.host).running() as second:
        assert (await lease(second))["expire_at"] == before["expire_at"]
        assert (await lease(second))["expired"] is True


async def test_a_shared_document_that_is_taken_over_is_kept_as_the_file_says(catalog: Catalog) -> None:
    store = MemoryStore()
    async with Gateway(catalog.folder.parent, store=store).running() as before:
        await before.add(LEASE, id="lease", shared=True, expire_at="2099-01-01T00:00:00Z")
    catalog.declare("lease")
    async with catalog.gateway(store=store).running() as gateway:
        assert ((await lease(gateway))["source"], (await lease(gateway))["expire_at"]) == ("catalog", None)
        await gateway.json("PATCH", "/v1/documents/lease", json={"pinned": True}, status=409)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("lease, pinned: true, ttl_s: 60", "leave out `pinned` or `ttl_s`"),
        ("lease, pinned: perhaps", "`documents[0].pinned`"),
        ("lease, ttl_s: 0", "`documents[0].ttl_s`"),
        ("lease, ttl_s: .inf", "`documents[0].ttl_s`"),
        ("lease, ttl_s: .nan", "`documents[0].ttl_s`"),
        ("lease, ttl: 60", "did you mean `ttl_s`?"),
        ("lease, expire_at: 2099-01-01", "`documents[0].expire_at`: unknown field"),
    ],
)
async def test_what_can_not_be_is_told_before_anything_is_applied(catalog: Catalog, entry: str, words: str) -> None:
    catalog.declare(entry)
    with pytest.raises(ConfigError) as caught:
        await catalog_file.load(catalog.path, Extractor(Extraction()))
    assert words in str(caught.value)


async def test_the_example_shows_both() -> None:
    found = {declared.id: declared.retention for declared in await catalog_file.load(EXAMPLE, Extractor(Extraction()))}
    assert any(retention.pinned for retention in found.values())
    assert any(retention.ttl_s for retention in found.values())
