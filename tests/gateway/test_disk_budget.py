"""The disk's budget through the whole gateway: what goes, what stays, and that never more lies there than it allows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Disk
from tests.fakes.engine import CHUNK_BYTES, Gate
from tests.fakes.gateway import eventually
from tests.fakes.store import MemoryStore
from tests.gateway.tiers import GIB, SIZE, TieredGateway, TrueHost, budget, text

QUESTION = "What is it about?"


def gateway(folder: Path, disk: Disk | None = None, **more: Any) -> TieredGateway:
    """With room for three documents."""
    return TieredGateway(folder, disk=disk or budget(3), **more)


async def add(running: TieredGateway, *names: str, **fields: Any) -> list[Any]:
    return [await running.add(text(name), id=name, **fields) for name in names]


async def test_of_five_the_three_that_came_last_are_kept(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await add(running, *"abcde")
        assert running.on_disk(whole=False) == set("cde")
        assert running.host.peak_bytes == running.host.disk_bytes == 3 * SIZE
        assert running.ledger.disk("kv").total_bytes == 3 * SIZE


async def test_the_least_recently_asked_goes_first(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await add(running, *"abc")
        for name in "bac":
            await running.ask(QUESTION, document=name)
        await add(running, "d")
        assert running.on_disk(whole=False) == set("acd")
        await add(running, "e")
        assert running.on_disk(whole=False) == set("cde")
        assert running.host.peak_bytes <= 3 * SIZE


async def test_down_to_the_low_watermark_the_next_ones_find_room(tmp_path: Path) -> None:
    async with gateway(tmp_path, budget(4, low_watermark=0.5)).running() as running:
        await add(running, *"abcd")
        assert running.on_disk() == set("abcd")
        await add(running, "e")
        assert running.on_disk(whole=False) == set("de")
        await add(running, *"fg")
        assert running.on_disk(whole=False) == set("defg")


async def test_pinned_ones_and_those_in_use_stay(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await add(running, "a", pinned=True)
        await add(running, *"bc")
        gate = Gate(running.workers[0], lambda body: body["max_tokens"] > 1 and body["cache_salt"] == running.salt("b"))
        held = asyncio.create_task(running.ask(QUESTION, document="b"))
        await gate.reached()
        await running.ask(QUESTION, document="c")  # asked later than the other two, and yet the only one that may go
        await add(running, "d")
        assert running.on_disk(whole=False) == set("abd")
        gate.open()
        assert (await held)["choices"]
        await add(running, "e")
        assert "a" in running.on_disk()
        assert running.host.peak_bytes <= 3 * SIZE


async def test_where_everything_is_pinned_another_is_refused_and_told_what_holds_the_space(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await add(running, *"abc", pinned=True)
        error = (await running.json("POST", "/v1/documents", json={"text": text("d"), "id": "d"}, status=507))["error"]
        assert error["code"] == "storage_full"
        assert "pinned" in error["message"]
        assert "disk.budget_gib" in error["message"]
        await running.json("GET", "/v1/documents/d", status=404)
        assert (await running.ask(QUESTION, document="a"))["choices"]
        await running.json("PATCH", "/v1/documents/a", json={"pinned": False})
        await add(running, "d")
        assert running.on_disk(whole=False) == set("bcd")


@pytest.mark.parametrize("freed_by", ["unpinned", "removed"])
async def test_a_reading_waits_for_room_and_goes_on_by_itself(tmp_path: Path, freed_by: str) -> None:
    async with gateway(tmp_path).running() as running:
        await add(running, *"ab", pinned=True)
        await add(running, "c")
        running.workers[0].problem = "is away"
        await eventually(running.is_out)
        (waiting,) = await add(running, "d", ready=False)
        await running.json("PATCH", "/v1/documents/c", json={"pinned": True})
        running.workers[0].problem = None

        async def says_why() -> bool:
            job = await running.json("GET", f"/v1/jobs/{waiting['job']['id']}")
            return job["state"] == "pending" and "The disk tier has no room" in (job["error"] or "")

        await eventually(says_why)
        assert running.on_disk(whole=False) == set("abc")
        if freed_by == "unpinned":
            await running.json("PATCH", "/v1/documents/c", json={"pinned": False})
        else:
            await running.json("DELETE", "/v1/documents/c")
        assert await running.finished(waiting["job"]["id"]) == "ready"
        assert running.on_disk(whole=False) == set("abd")
        assert (await running.json("GET", "/v1/documents/d"))["job"] is None
        assert running.host.peak_bytes <= 3 * SIZE


async def test_a_question_to_an_evicted_document_is_answered_stored_again_and_evicts_another(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await add(running, *"abcd")
        running.cool()
        cold = await running.ask(QUESTION, document="a")
        assert cold["headers"]["x-cache-tier"] == "none"
        assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert running.on_disk(whole=False) == set("acd")
        running.cool()
        warm = await running.ask(QUESTION, document="a")
        assert warm["headers"]["x-cache-tier"] == "disk"
        assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] >= running.version("a").prefix_tokens
        assert running.host.peak_bytes <= 3 * SIZE


async def test_where_there_is_no_room_a_question_is_answered_and_nothing_is_kept(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await add(running, *"abcd")
        for name in "bcd":
            await running.json("PATCH", f"/v1/documents/{name}", json={"pinned": True})
        written = len(running.host.stored)
        for _ in range(2):
            running.cool()
            answer = await running.ask(QUESTION, document="a")
            assert answer["headers"]["x-cache-tier"] == "none"
        assert len(running.host.stored) == written
        assert running.on_disk(whole=False) == set("bcd")


async def test_a_question_to_what_only_a_gpu_still_holds_needs_room_too(tmp_path: Path) -> None:
    """The engine writes to the KV server whatever that lacks, also what it did not have to compute."""
    async with gateway(tmp_path).running() as running:
        await add(running, *"abcd")
        running.host.forget_ram()
        warm = await running.ask(QUESTION, document="a")
        assert warm["headers"]["x-cache-tier"] == "gpu"
        assert running.on_disk(whole=False) == set("acd")
        assert running.host.peak_bytes <= 3 * SIZE
        for name in "acd":
            await running.json("PATCH", f"/v1/documents/{name}", json={"pinned": True})
        running.host.forget_ram()
        written = len(running.host.stored)
        assert (await running.ask(QUESTION, document="b"))["headers"]["x-cache-tier"] == "gpu"
        assert len(running.host.stored) == written


async def test_what_ram_holds_is_not_written_again(tmp_path: Path) -> None:
    async with gateway(tmp_path).running() as running:
        await add(running, *"abcd")
        running.workers[0].restart()  # type: ignore[attr-defined]
        written = len(running.host.stored)
        assert (await running.ask(QUESTION, document="a"))["headers"]["x-cache-tier"] == "ram"
        assert len(running.host.stored) == written
        assert running.on_disk(whole=False) == set("bcd")


async def test_what_others_leave_free_of_the_disk_counts_as_well(tmp_path: Path) -> None:
    host = TrueHost(capacity_bytes=10 * SIZE)
    async with gateway(tmp_path, Disk(min_free_gib=7.5 * SIZE / GIB), hosts=[host]).running() as running:
        await add(running, *"abcd")
        assert running.on_disk(whole=False) == set("cd")
        host.free_bytes = 9 * SIZE  # somebody else takes a document's room
        await add(running, "e")
        assert running.on_disk(whole=False) == set("e")
        host.free_bytes = 8 * SIZE
        error = (await running.json("POST", "/v1/documents", json={"text": text("f"), "id": "f"}, status=507))["error"]
        assert "disk.min_free_gib" in error["message"]


async def test_after_a_restart_the_budget_holds_from_the_files_alone_and_by_what_was_asked_before(tmp_path: Path) -> None:
    host, store = TrueHost(), MemoryStore()
    async with gateway(tmp_path, hosts=[host], store=store).running() as first:
        await add(first, *"abc")
        await first.ask(QUESTION, document="a")
    host.restart()
    async with gateway(tmp_path, hosts=[host], store=store).running() as second:
        assert second.ledger.disk("kv").total_bytes == 3 * SIZE
        await add(second, "d")
        assert second.on_disk(whole=False) == set("acd")
        await add(second, "e")
        assert second.on_disk(whole=False) == set("ade")
    assert host.peak_bytes <= 3 * SIZE


async def test_a_budget_that_was_lowered_is_kept_from_the_start(tmp_path: Path) -> None:
    host, store = TrueHost(), MemoryStore()
    async with gateway(tmp_path, hosts=[host], store=store).running() as first:
        await add(first, *"abc")
    async with gateway(tmp_path, budget(1), hosts=[host], store=store).running() as second:
        await eventually(lambda: second.on_disk(whole=False) == {"c"})
        assert (await second.ask(QUESTION, document="c"))["headers"]["x-cache-tier"] == "disk"


async def test_what_nobody_knows_goes_before_any_document(tmp_path: Path) -> None:
    host = TrueHost()
    host.disk["nobodys"] = {(number,) for number in range(SIZE // CHUNK_BYTES)}
    async with gateway(tmp_path, hosts=[host]).running() as running:
        await add(running, *"ab")
        assert "nobodys" in host.disk
        await add(running, "c")
        assert running.on_disk() == set("abc")
        assert "nobodys" not in host.disk
    assert host.peak_bytes <= 3 * SIZE
