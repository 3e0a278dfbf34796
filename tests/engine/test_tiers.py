"""The ledger against the engine's own counters, after every step of a scripted run, on the real engine.

Documents are short: the engine here (`small`) keeps about 12 chunks in RAM, and 35 on each worker's GPU tier.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine import counters
from tests.engine.conftest import RealGateway
from tests.fakes.gateway import eventually

NOTES, KEPT = 5, 3
"""Documents of four chunks that are read, and how many of them RAM keeps beside the room to encrypt one."""


@pytest.fixture(autouse=True)
async def _empty(small: RealGateway) -> Any:
    """Each test begins without documents, and with nothing on any tier."""
    yield
    for document in (await small.get("/v1/documents"))[1]["data"]:
        await small.remove(document["id"])
    await counters.agree(small)


async def test_the_ledger_agrees_with_the_engine_after_every_step(small: RealGateway) -> None:
    document = await small.read("note", text("note", 24))
    await counters.agree(small)
    first, other = await reader(small, "note")
    size_bytes = document["prefix_tokens"] // counters.CHUNK * counters.CHUNK_BYTES
    sealed_bytes = size_bytes + document["prefix_tokens"] // counters.CHUNK * counters.SEAL_BYTES
    whole = {("ram", "lmcache"): (1.0, size_bytes), ("disk", "lmcache"): (1.0, sealed_bytes)}
    assert await counters.tiers(small, "note") == whole | {("gpu", first): (1.0, size_bytes)}

    answer = await counters.ask(small, "note", "What is part 1?")
    assert (answer["cache-tier"], answer["worker"]) == ("gpu", first)
    await counters.agree(small)

    await small.move("note", "warm", tier="gpu", worker=other)
    await small.reset_gpu(first)
    assert await counters.tiers(small, "note") == whole | {("gpu", other): (1.0, size_bytes)}
    answer = await counters.ask(small, "note", "What is part 2?")
    assert (answer["cache-tier"], answer["worker"]) == ("gpu", other)

    await small.reset_gpu(other)
    assert await counters.tiers(small, "note") == whole
    assert (await counters.ask(small, "note", "What is part 3?"))["cache-tier"] == "ram"
    await counters.agree(small)

    await small.move("note", "evict", tier="ram")
    await counters.agree(small)
    await reset(small)
    assert await counters.tiers(small, "note") == {("disk", "lmcache"): (1.0, sealed_bytes)}
    assert (await counters.ask(small, "note", "What is part 4?"))["cache-tier"] == "disk"
    await counters.agree(small)

    await small.move("note", "evict", tier="disk")
    await counters.agree(small)
    assert not small.files()
    await reset(small)
    assert (await counters.ask(small, "note", "What is part 5?"))["cache-tier"] == "ram"

    await small.move("note", "evict", tier="all")
    await counters.agree(small)
    await reset(small)
    assert await counters.tiers(small, "note") == {}
    assert (await counters.ask(small, "note", "What is part 6?"))["cache-tier"] == "none"
    await eventually(lambda: stored_whole(small, document), within_s=15)
    await counters.agree(small)
    assert (await counters.ask(small, "note", "What is part 7?"))["cache-tier"] == "gpu"

    before = await counters.version_of(small, "note")
    await small.read("note", text("a newer note", 24))
    await eventually(lambda: before.salt not in {salt for salt, _, _ in counters.stored(small)}, within_s=15)
    await counters.agree(small)
    assert (await counters.ask(small, "note", "What is part 8?"))["cache-tier"] == "gpu"

    await small.remove("note")
    await eventually(lambda: not small.files(), within_s=15)
    await counters.agree(small)
    await eventually(lambda: ram_is_empty(small), within_s=5)


async def test_where_ram_is_full_whole_documents_leave_it_and_the_ledger_knows_which(small: RealGateway) -> None:
    for number in range(NOTES):
        await small.read(f"note-{number}", text(f"note {number}", 24))
        await counters.agree(small)
    # Until the last trimming is over: before it RAM holds one more, which may be any of them.
    await eventually(lambda: len(small.ledger.ram("lmcache").salts) <= KEPT, within_s=5)
    await counters.agree(small)
    held = {number: await counters.tiers(small, f"note-{number}") for number in range(NOTES)}
    in_ram = {number for number, tiers in held.items() if ("ram", "lmcache") in tiers}
    assert len(in_ram) == KEPT, held
    assert all(tiers["ram", "lmcache"][0] == 1.0 for number, tiers in held.items() if number in in_ram), held
    assert all(tiers["disk", "lmcache"][0] == 1.0 for tiers in held.values())
    await reset(small)
    there, away = max(in_ram), min(set(held) - in_ram)
    assert (await counters.ask(small, f"note-{there}", "What is part 1?"))["cache-tier"] == "ram"
    assert (await counters.ask(small, f"note-{away}", "What is part 1?"))["cache-tier"] == "disk"
    await counters.agree(small)


async def test_a_restarted_worker_holds_nothing_and_a_restarted_kv_server_only_what_is_on_disk(small: RealGateway) -> None:
    document = await small.read("note", text("note", 24))
    first, _ = await reader(small, "note")
    await counters.agree(small)
    await small.stack.restart(first)
    assert set(await counters.tiers(small, "note")) == {("ram", "lmcache"), ("disk", "lmcache")}
    await counters.agree(small)
    assert (await counters.ask(small, "note", "What is part 1?"))["cache-tier"] == "ram"

    await small.stack.restart("lmcache")
    await eventually(small.is_ready, within_s=15)
    await counters.agree(small)
    await reset(small)
    assert set(await counters.tiers(small, "note")) == {("disk", "lmcache")}
    await asyncio.sleep(3)  # the workers register again
    assert (await counters.ask(small, "note", "What is part 2?"))["cache-tier"] == "disk"
    await counters.agree(small)
    assert (await counters.tiers(small, "note"))["ram", "lmcache"][0] == 1.0
    assert document["prefix_tokens"] // counters.CHUNK == len(small.files())


def text(name: str, parts: int) -> str:
    """About 45 tokens a part; no two of other names begin alike."""
    said = (f"Part {n} of {name} says that box {n * 7} is kept in room {n * 3}, by the door to the north." for n in range(parts))
    return f"# {name}\n\n" + "\n\n".join(said)


async def reader(gateway: RealGateway, document_id: str) -> tuple[str, str]:
    """The worker that holds the document on its GPU tier, and the other one."""
    (holds,) = {where for tier, where in await counters.tiers(gateway, document_id) if tier == "gpu"}
    (other,) = {name for name, _ in gateway.stack.workers} - {holds}
    return holds, other


async def reset(gateway: RealGateway) -> None:
    for name, _ in gateway.stack.workers:
        await gateway.reset_gpu(name)


def stored_whole(gateway: RealGateway, document: dict[str, Any]) -> bool:
    return len(gateway.files()) == document["prefix_tokens"] // counters.CHUNK


async def ram_is_empty(gateway: RealGateway) -> bool:
    return await counters.memory_used(gateway) == 0
