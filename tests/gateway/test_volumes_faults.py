"""Documents in volumes where something goes wrong, or others have a say: failures, crashes, the catalog file, expiry, sharing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from backends.base import Vectors
from gateway.ingestion.ingestion import ATTEMPTS
from gateway.sections import Gathering, Ingestion, Retention
from router.documents import DocumentId, Part
from router.errors import EngineFailed
from tests.fakes.engine import Fault, Gate
from tests.fakes.gateway import RESERVE, Gateway, eventually
from tests.fakes.store import MemoryStore
from tests.gateway.catalog import Catalog, problem
from tests.gateway.test_volumes import (
    GARDEN,
    LIMIT,
    PETS,
    SETTINGS,
    SHORT,
    TEXT,
    chapter,
    cleared,
    gateway,
    shown,
    stored_ids,
    text,
)

CHANGED = text(Garden=chapter("Garden").replace("roses", "tulips"))


async def test_a_volume_that_cannot_be_read_leaves_the_old_ones_and_is_read_by_the_same_text_again(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules")
        before = await shown(running)
        running.workers[0].faults = [Fault(EngineFailed("It broke off.")) for _ in range(ATTEMPTS)]
        added = await running.add(CHANGED, id="rules", ready=False)
        assert await running.finished(added["job"]["id"]) == "failed"
        after = await shown(running)
        assert (after["state"], after["volumes"], after["job"]["error"]) == ("ready", before["volumes"], "It broke off.")
        assert (await running.ask(GARDEN))["headers"]["x-document-volume"] == "3"
        await running.add(CHANGED, id="rules")
        assert (await shown(running))["volumes"] != before["volumes"]
        await cleared(running, volumes=5)


async def test_a_new_document_of_which_a_volume_cannot_be_read_has_failed_and_says_why(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        running.workers[0].faults = [Fault(EngineFailed("It broke off.")) for _ in range(ATTEMPTS)]
        added = await running.add(TEXT, id="rules", ready=False)
        assert await running.finished(added["job"]["id"]) == "failed"
        await eventually(lambda: _has_state(running, "failed"))
        refused = (await running.ask(PETS, document="rules", status=409))["error"]
        assert (refused["code"], "It broke off." in refused["message"]) == ("document_not_ready", True)


async def _has_state(running: Gateway, state: str) -> bool:
    return bool((await shown(running))["state"] == state)


async def test_a_text_that_is_replaced_before_it_was_read_leaves_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        gate = Gate(running.workers[0])
        first = await running.add(TEXT, id="rules", ready=False)
        await gate.reached()
        second = await running.add(CHANGED, id="rules", ready=False)
        assert second["job"]["id"] != first["job"]["id"]
        gate.open()
        assert await running.finished(second["job"]["id"]) == "ready"
        await cleared(running, volumes=5)
        await running.json("GET", f"/v1/jobs/{first['job']['id']}", status=404)


async def test_a_short_text_that_comes_while_the_long_one_is_read_stays(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        gate = Gate(running.workers[0])
        await running.add(TEXT, id="rules", ready=False)
        await gate.reached()
        short = await running.add(SHORT, id="rules", ready=False)
        gate.open()
        assert await running.finished(short["job"]["id"]) == "ready"
        await cleared(running, volumes=0)
        document = await shown(running)
        assert (document["state"], document["volumes"], document["job"]) == ("ready", [], None)


async def test_a_question_whose_volume_goes_while_it_is_chosen_goes_to_one_of_the_new_ones(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules")
        embed, choosing, go_on = running.embedder.embed, asyncio.Event(), asyncio.Event()

        async def held(texts: Sequence[str]) -> Vectors:
            if list(texts) == [GARDEN] and not choosing.is_set():
                choosing.set()
                await go_on.wait()
            return await embed(texts)

        running.embedder.embed = held  # type: ignore[method-assign]
        asking = asyncio.create_task(running.ask(GARDEN, document="rules"))
        await choosing.wait()
        await running.add(CHANGED, id="rules")
        await cleared(running, volumes=5)
        go_on.set()
        assert (await asking)["headers"]["x-document-volume"] == "3"


async def test_volumes_that_no_document_names_are_removed_at_the_start(tmp_path: Path) -> None:
    """As a crash leaves them: between the first volume and the document that names it, and while one is removed."""
    store = MemoryStore()
    async with gateway(tmp_path, store=store).running() as first:
        await first.add(TEXT, id="rules")
    await store.open()
    volume = next(document for document in await store.documents() if document.part is not None)
    for whole in ("rules", "gone"):
        part = Part(DocumentId(whole), "Left")
        await store.put_document(replace(volume, id=DocumentId(f"{whole}#left"), part=part, current=None, incoming=None))
    async with gateway(tmp_path, store=store).running() as second:
        await cleared(second, volumes=5)
        assert "rules" in await stored_ids(second)


async def test_a_document_declared_in_the_catalog_file_may_have_volumes(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    catalog.text("rules", TEXT)
    catalog.declare("rules", "lease")
    async with catalog.gateway(ingestion=SETTINGS).running() as running:
        await eventually(lambda: _has_state(running, "ready"))
        assert await problem(running) == ""
        assert len((await shown(running))["volumes"]) == 5
        catalog.text("rules", CHANGED)

        async def changed() -> bool:
            return (await running.ask("Who waters the tulips?", document="rules"))["headers"].get("x-document-volume") == "3"

        await eventually(changed)
        catalog.declare("lease")

        async def gone() -> bool:
            return await stored_ids(running) == {"lease"}

        await eventually(gone)


async def test_its_volumes_expire_with_it_and_a_question_to_one_keeps_all(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    settings: dict[str, Any] = {"ingestion": SETTINGS, "retention": Retention(ttl_refresh=True), "now": lambda: now[0]}
    async with Gateway(tmp_path, **settings).running() as running:
        await running.add(TEXT, id="rules", ttl_s=100)
        now[0] += 60
        await running.ask(PETS, document="rules")
        ends = datetime.fromisoformat((await shown(running))["expire_at"]).timestamp()
        assert ends == now[0] + 100

        async def told() -> bool:
            return {document.expires_at for document in await running.store.documents()} == {ends}

        await eventually(told)


async def test_a_tenants_own_document_stands_before_a_shared_one_in_volumes(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await running.add(TEXT, id="rules", shared=True)
        assert (await running.ask(PETS))["headers"]["x-document-volume"] == "2"
        await running.add("# My rules\n\nCats and dogs are welcome.", id="rules")
        for named in ({"document": "rules"}, {}):
            assert "x-document-volume" not in (await running.ask(PETS, **named))["headers"]
        assert [one["volumes"] for one in (await running.json("GET", "/v1/documents"))["data"]] == [[]]
        other = await running.new_key("tenant-b")
        assert (await running.ask(PETS, key=other))["headers"]["x-document-volume"] == "2"


async def test_switched_off_again_what_is_there_is_kept(tmp_path: Path) -> None:
    store = MemoryStore()
    async with gateway(tmp_path, store=store).running() as first:
        await first.add(TEXT, id="rules")
        host = first.host
    off = Ingestion(answer_reserve_tokens=RESERVE)
    async with gateway(tmp_path, store=store, host=host, ingestion=off).running() as second:
        assert (await second.ask(PETS))["headers"]["x-document-volume"] == "2"
        error = (await second.json("POST", "/v1/documents", json={"id": "rules", "text": CHANGED}, status=400))["error"]
        assert "set `ingestion.max_volumes` in the configuration" in error["message"]
        assert len((await shown(second))["volumes"]) == 5


async def test_several_documents_may_be_asked_one_of_them_in_volumes(tmp_path: Path) -> None:
    async with gateway(tmp_path, gathering=Gathering(max_documents=2, part_tokens=64)).running() as running:
        await running.add(TEXT, id="rules")
        await running.add("# Expenses\n\nTaxis need a receipt.", id="expenses")
        answer = await running.ask(GARDEN, documents=["rules", "expenses"], max_tokens=16)
        assert [source["document"] for source in answer["sources"]] == ["rules", "expenses"]
        assert (answer["headers"]["x-document-id"], answer["headers"]["x-document-volume"]) == ("rules,expenses", "3,")


async def test_more_volumes_than_are_allowed_are_refused_with_the_number_and_the_option(tmp_path: Path) -> None:
    few = Ingestion(answer_reserve_tokens=RESERVE, max_volumes=3)
    async with Gateway(tmp_path, ingestion=few).running() as running:
        error = (await running.json("POST", "/v1/documents", json={"id": "rules", "text": TEXT}, status=400))["error"]
        assert (error["code"], error["limit"]) == ("context_length_exceeded", LIMIT)
        assert error["tokens"] > LIMIT
        assert "raise `ingestion.max_volumes` in the configuration: it needs 5 volumes" in error["message"]
        assert await stored_ids(running) == set()


async def test_a_pin_that_cannot_be_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        body = {"id": "rules", "text": TEXT, "pinned": True, "ttl_s": 60}
        await running.json("POST", "/v1/documents", json=body, status=400)
        assert await stored_ids(running) == set()
        assert running.workers[0].bodies == []
