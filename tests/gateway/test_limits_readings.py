"""Readings and the token budget: who adds a text pays for reading it, once, and gets back what came to nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Ingestion
from router.errors import EngineFailed
from router.limits import Rates
from tests.fakes.engine import CHUNK, Fault, Gate
from tests.fakes.gateway import RESERVE, eventually
from tests.fakes.store import MemoryStore
from tests.gateway.catalog import Catalog, until_ready
from tests.gateway.limited import DOCUMENT, LEASE, MOST, Limited, costs, status
from tests.gateway.test_volumes import TEXT, chapter, text

OTHER = LEASE.replace("2,400", "2,500")
"""As long as the lease."""
BUDGET = {"token_budget": 100_000}
CHUNK_BY_CHUNK = Ingestion(segment_target_s=1e-6, answer_reserve_tokens=RESERVE)


async def spent(gateway: Limited, tenant: str = "tenant-a") -> int:
    return int((await gateway.used(tenant))["used"]["budget"]["used"])


async def until_spent(gateway: Limited, tokens: int) -> None:
    async def holds() -> bool:
        return await spent(gateway) == tokens

    await eventually(holds)


async def post(gateway: Limited, raw: str = LEASE, **fields: Any) -> tuple[int, Any, Any]:
    key = fields.pop("key", None)
    async with gateway.request("POST", "/v1/documents", json={"id": "lease", "text": raw, **fields}, key=key) as response:
        return response.status, (await response.json()).get("error"), response.headers


async def test_a_reading_takes_the_documents_tokens_from_the_budget_and_none_of_a_minutes(tmp_path: Path) -> None:
    async with Limited(tmp_path, {**BUDGET, "tokens_per_minute": DOCUMENT - 1}).running() as gateway:
        added = await gateway.add(LEASE, id="lease")
        assert added["prefix_tokens"] == DOCUMENT
        assert (await spent(gateway), (await costs(gateway))[1]) == (DOCUMENT, 0)
        await gateway.add(OTHER, id="lease")
        assert await spent(gateway) == 2 * DOCUMENT, "a new text under the same id is read as well"


async def test_what_is_read_already_or_is_being_read_costs_nothing(tmp_path: Path) -> None:
    async with Limited(tmp_path, BUDGET).running() as gateway:
        gate = Gate(gateway.workers[0])
        await gateway.add(LEASE, id="lease", ready=False)
        await gate.reached()
        assert (await post(gateway))[0] == 202
        gate.open()

        async def is_read() -> bool:
            return (await post(gateway))[0] == 200

        await eventually(is_read)
        await gateway.json("POST", "/v1/documents", json={"id": "lease", "text": LEASE, "title": "Rent"})
        await gateway.json("PATCH", "/v1/documents/lease", json={"summary": "Of a flat."})
        assert await spent(gateway) == DOCUMENT


async def test_what_the_budget_has_no_room_for_is_refused_with_the_numbers_and_nothing_is_stored(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"token_budget": 2 * DOCUMENT - 1, "budget_period": "month"}).running() as gateway:
        await gateway.add(LEASE, id="lease")
        sent = len(gateway.workers[0].bodies)
        for fields in ({"raw": OTHER}, {"raw": OTHER, "id": "other"}, {"raw": OTHER, "id": "others", "shared": True}):
            code, error, headers = await post(gateway, **fields)
            assert (code, error["code"], error["limit"]) == (429, "insufficient_quota", 2 * DOCUMENT - 1)
            assert headers["x-should-retry"] == "false"
            assert int(headers["retry-after"]) == 1_701_388_800 - gateway.clock.at  # 1 December
        assert error["message"] == (
            f"The document has {DOCUMENT} tokens to be read, and of the budget of this tenant, {2 * DOCUMENT - 1} tokens a month, "
            f"{DOCUMENT - 1} are left. A new month begins in 385h46m0s (UTC)."
        )
        (document,) = await gateway.store.documents()
        assert (document.id, document.incoming) == ("lease", None)
        assert [entry.action for entry in await gateway.store.audit(limit=9)] == ["document.add"]
        assert (len(gateway.workers[0].bodies), await spent(gateway)) == (sent, DOCUMENT)
        gateway.clock.at = 1_701_388_801
        await gateway.add(OTHER, id="lease")


async def test_a_document_that_is_longer_than_a_whole_budget_is_told_so(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"token_budget": DOCUMENT - 1}).running() as gateway:
        code, error, headers = await post(gateway)
        assert (code, error["message"].endswith("It is more than a whole day's.")) == (429, True)
        assert "retry-after" not in headers


async def test_a_keys_own_budget_is_charged_beside_its_tenants_and_nobody_elses(tmp_path: Path) -> None:
    async with Limited(tmp_path, BUDGET).running() as gateway:
        gateway.declare(BUDGET, **{"tenant-b": BUDGET})
        other = await gateway.new_key("tenant-b")
        await eventually(lambda: _is_limited(gateway, "tenant-b"))
        narrow = await gateway.new_key("tenant-a", limits=Rates(token_budget=DOCUMENT))
        await gateway.add(LEASE, id="lease", key=narrow)
        code, error, _ = await post(gateway, OTHER, key=narrow)
        assert (code, "of the budget of this key" in error["message"]) == (429, True)
        assert await spent(gateway) == DOCUMENT, "what the key's budget refuses is not charged to the tenant"
        await gateway.add(OTHER, id="lease")
        await gateway.add(LEASE, id="rules", shared=True, key=other)
        assert (await spent(gateway), await spent(gateway, "tenant-b")) == (2 * DOCUMENT, DOCUMENT)


async def _is_limited(gateway: Limited, tenant: str) -> bool:
    return (await gateway.used(tenant))["used"]["budget"] is not None


async def test_of_many_at_once_no_more_are_taken_in_than_the_budget_has_room_for(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"token_budget": 4 * DOCUMENT - 1}).running() as gateway:
        found = [code for code, *_ in await asyncio.gather(*(post(gateway, id=f"d{number}") for number in range(20)))]
        assert (found.count(202), found.count(429)) == (3, 17)
        assert len(await gateway.store.documents()) == 3


async def test_warming_what_is_in_no_tier_costs_what_reading_it_did(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"token_budget": 3 * DOCUMENT}).running() as gateway:
        await gateway.add(LEASE, id="lease")
        await moved(gateway, "warm")
        assert await spent(gateway) == DOCUMENT, "it was there"
        await moved(gateway, "evict")
        async with gateway.request("POST", "/v1/documents/lease/warm", json={"host": "no such host"}) as response:
            assert response.status == 400
        assert await spent(gateway) == DOCUMENT, "what is refused costs nothing"
        gate = Gate(gateway.workers[0])
        first = await gateway.json("POST", "/v1/documents/lease/warm", status=202)
        await gate.reached()
        again = await gateway.json("POST", "/v1/documents/lease/warm", status=202)
        assert (again["id"], await spent(gateway)) == (first["id"], 2 * DOCUMENT)
        gate.open()
        assert await gateway.finished(first["id"]) == "done"
        for how in ("evict", "warm", "evict"):
            await moved(gateway, how)
        async with gateway.request("POST", "/v1/documents/lease/warm") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (429, "insufficient_quota")


async def moved(gateway: Limited, how: str) -> None:
    job = await gateway.json("POST", f"/v1/documents/lease/{how}", status=202)
    assert await gateway.finished(job["id"]) == "done"


async def test_a_reading_that_failed_is_given_back(tmp_path: Path) -> None:
    async with Limited(tmp_path, BUDGET).running() as gateway:
        gateway.workers[0].faults = [Fault(EngineFailed("It broke."))] * 3
        job = (await gateway.add(LEASE, id="lease", ready=False))["job"]["id"]
        assert await gateway.finished(job) == "failed"
        assert await spent(gateway) == 0
        await gateway.add(LEASE, id="lease")
        assert await spent(gateway) == DOCUMENT


async def test_what_could_not_be_stored_is_given_back(tmp_path: Path) -> None:
    class Full(MemoryStore):
        async def add_version(self, *_: Any) -> None:
            raise OSError("No space left on device")

    async with Limited(tmp_path, BUDGET, store=Full()).running() as gateway:
        assert (await post(gateway))[0] == 500
        assert await spent(gateway) == 0


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_what_was_not_read_when_it_went_is_given_back(tmp_path: Path, how: str) -> None:
    async with Limited(tmp_path, BUDGET, ingestion=CHUNK_BY_CHUNK).running() as gateway:
        third = Gate(gateway.workers[0], lambda body: len(body["prompt"]) == 3 * CHUNK)
        await gateway.add(LEASE, id="lease", ready=False)
        await third.reached()
        await gateway.add("# Next\n\nIt waits for its turn.", id="next", ready=False)
        waiting = await spent(gateway) - DOCUMENT
        await gateway.json("DELETE", "/v1/documents/next")
        assert await spent(gateway) == DOCUMENT, "of what had not begun, all"
        if how == "removed":
            await gateway.json("DELETE", "/v1/documents/lease")
        else:
            await gateway.add("# Next\n\nIt waits for its turn.", id="lease", ready=False)
        again = waiting if how == "replaced" else 0
        assert await spent(gateway) == DOCUMENT + again, "the segment under way will have been computed"
        third.open()
        await until_spent(gateway, 3 * CHUNK + again)


async def test_posting_again_and_again_pays_for_every_beginning(tmp_path: Path) -> None:
    async with Limited(tmp_path, BUDGET, ingestion=CHUNK_BY_CHUNK).running() as gateway:
        for number in range(4):
            gate = Gate(gateway.workers[0])
            await gateway.add(LEASE.replace("month", f"month {number}"), id="lease", ready=False)
            await gate.reached()
            await gateway.json("DELETE", "/v1/documents/lease")
            gate.open()
            await until_spent(gateway, (number + 1) * CHUNK)


async def test_what_operators_declare_is_not_charged(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    catalog.declare("lease, tenant: tenant-a", "expenses")
    async with Limited(tmp_path, {"token_budget": 1}, catalog=catalog.path).running() as gateway:
        for name in ("lease", "expenses"):
            await until_ready(gateway, name)
        assert await spent(gateway) == 0


async def test_a_budget_that_readings_have_spent_has_no_room_for_a_question(tmp_path: Path) -> None:
    async with Limited(tmp_path, {"token_budget": DOCUMENT + MOST - 1}).running() as gateway:
        await gateway.add(LEASE, id="lease")
        assert await status(gateway) == 429


async def test_after_a_restart_it_stays_charged(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Limited(tmp_path, BUDGET, store=store).running() as first:
        Gate(first.workers[0])
        await first.add(LEASE, id="lease", ready=False)
        assert (await first.used())["used"]["budget"]["reserved"] == 0
    async with Limited(tmp_path, BUDGET, store=store).running() as second:
        assert await spent(second) == DOCUMENT
        await second.json("DELETE", "/v1/documents/lease")
        assert await spent(second) == DOCUMENT


async def test_volumes_are_paid_for_together_and_each_once(tmp_path: Path) -> None:
    volumes = Ingestion(answer_reserve_tokens=RESERVE, max_volumes=8)
    async with Limited(tmp_path, BUDGET, ingestion=volumes).running() as gateway:
        await gateway.add(TEXT, id="rules")
        parts = {part["id"]: part["prefix_tokens"] for part in await _volumes(gateway)}
        whole = sum(parts.values())
        assert await spent(gateway) == whole
        await gateway.limit(token_budget=whole + 100)
        changed = text(Pets=chapter("Pets").replace("Cats", "Parrots"))
        code, error, _ = await post(gateway, changed, id="rules")
        assert (code, error["code"]) == (429, "insufficient_quota")
        assert {part["id"] for part in await _volumes(gateway)} == set(parts)
        assert len(await gateway.store.documents()) == 1 + len(parts), "nothing of it is stored"
        await gateway.limit(**BUDGET)
        await gateway.add(changed, id="rules")
        new = sum(part["prefix_tokens"] for part in await _volumes(gateway) if part["id"] not in parts)
        assert 0 < new < whole
        assert await spent(gateway) == whole + new


async def _volumes(gateway: Limited) -> list[Any]:
    return list((await gateway.json("GET", "/v1/documents/rules"))["volumes"])
