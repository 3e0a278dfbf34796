"""A gateway that ends in the middle, and the next one over the same database and the same KV; also with another engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from backends.base import Store
from backends.settings import Model
from backends.store.sql_store import SqlStore
from gateway.ingestion.ingestion import ATTEMPTS
from gateway.sections import Ingestion
from router.errors import EngineFailed
from tests.fakes.engine import CHUNK, FakeHost, Fault, Gate
from tests.fakes.gateway import CONTEXT, RESERVE, Gateway, eventually, without_tiers
from tests.fakes.store import MemoryStore

LEASE = "# Lease\n\nThe deposit is 2,400 euros. " + "One sentence after another. " * 10
QUESTION = "What is the deposit?"


class House:
    """What outlives a gateway: its folder, its database, and what the KV server holds."""

    def __init__(self, folder: Path, store: Callable[[], Store]) -> None:
        self.folder = folder
        self.host = FakeHost()
        self._store = store

    def gateway(self, **more: Any) -> Gateway:
        """Another gateway, not yet running, that reads a chunk at a time."""
        settings = Ingestion(segment_target_s=1e-6, answer_reserve_tokens=RESERVE)
        return Gateway(self.folder, store=self._store(), host=self.host, **{"ingestion": settings, **more})


@pytest.fixture(params=["memory", "sqlite"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> House:
    memory = MemoryStore()
    if request.param == "memory":
        return House(tmp_path, lambda: memory)
    return House(tmp_path, lambda: SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'kvshelf.db'}"))


@pytest.fixture
def kept(tmp_path: Path) -> House:
    memory = MemoryStore()
    return House(tmp_path, lambda: memory)


async def test_a_reading_goes_on_where_it_stopped(house: House) -> None:
    async with house.gateway().running() as first:
        gate = Gate(first.workers[0], lambda body: len(body["prompt"]) > 10 * CHUNK)
        added = await first.add(LEASE, id="lease", ready=False)
        await gate.reached()
    async with house.gateway().running() as second:
        assert await second.finished(added["job"]["id"]) == "ready"
        assert len(second.workers[0].bodies[0]["prompt"]) == 11 * CHUNK
        verification = second.workers[0].bodies[-1]["prompt"]
        assert second.workers[0].prefilled_tokens == len(verification) - 10 * CHUNK
        answer = await second.ask(QUESTION, document="lease")
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= added["prefix_tokens"]


async def test_what_was_read_but_not_verified_is_only_verified(kept: House) -> None:
    async with kept.gateway().running() as first:
        tokens = (await first.add(LEASE, id="measured"))["prefix_tokens"]
        gate = Gate(first.workers[0], lambda body: len(body["prompt"]) > tokens)
        added = await first.add(LEASE, id="lease", ready=False)
        await gate.reached()
    async with kept.gateway().running() as second:
        assert await second.finished(added["job"]["id"]) == "ready"
        assert [len(body["prompt"]) > tokens for body in second.workers[0].bodies] == [True]


async def test_kv_that_was_lost_meanwhile_is_read_again(kept: House) -> None:
    async with kept.gateway().running() as first:
        gate = Gate(first.workers[0], lambda body: len(body["prompt"]) > 10 * CHUNK)
        added = await first.add(LEASE, id="lease", ready=False)
        await gate.reached()
    kept.host.disk.clear()
    kept.host.ram.clear()
    async with kept.gateway().running() as second:
        assert await second.finished(added["job"]["id"]) == "ready"
        answer = await second.ask(QUESTION, document="lease")
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= added["prefix_tokens"]


async def test_ready_documents_are_not_read_again_and_are_found_without_embedding_them_again(house: House) -> None:
    async with house.gateway().running() as first:
        await first.add(LEASE, id="lease", questions=["How much is the deposit?"])
        await first.add("# Expenses\n\nTaxis need a receipt.", id="expenses")
        before = without_tiers((await first.json("GET", "/v1/documents"))["data"])
        routed = await first.json("POST", "/v1/route", json={"question": "Do taxis need a receipt?"})
    async with house.gateway().running() as second:
        assert without_tiers((await second.json("GET", "/v1/documents"))["data"]) == before
        again = await second.json("POST", "/v1/route", json={"question": "Do taxis need a receipt?"})
        assert (again["decision"], again["document"]) == ("route", "expenses")
        assert again["score"] == pytest.approx(routed["score"], abs=1e-3)
        assert second.embedder.texts == 1
        assert second.workers[0].bodies == []
        answer = await second.ask(QUESTION, document="lease")
        assert answer["headers"]["x-cache-tier"] == "disk"  # what was in RAM was told to the gateway before


async def test_the_old_version_answers_where_the_new_one_fails_which_the_next_gateway_tries_again(kept: House) -> None:
    async with kept.gateway().running() as first:
        await first.add(LEASE, id="lease")
        old = first.workers[0].bodies[0]["cache_salt"]
        first.workers[0].faults = [Fault(EngineFailed("The worker says: too odd."))] * ATTEMPTS
        failed = await first.add("# Lease\n\nNew.", id="lease", ready=False)
        assert await first.finished(failed["job"]["id"]) == "failed"
        shown = await first.json("GET", "/v1/documents/lease")
        assert (shown["state"], shown["job"]["state"]) == ("ready", "failed")
        assert shown["job"]["error"] == "The worker says: too odd."
        assert (await first.ask(QUESTION, document="lease"))["choices"]
        assert first.workers[0].bodies[-1]["cache_salt"] == old
    second = kept.gateway()
    gate = Gate(second.workers[0], lambda body: body["max_tokens"] == 1)
    async with second.running():
        await gate.reached()
        shown = await second.json("GET", "/v1/documents/lease")
        assert (shown["state"], shown["job"]["error"]) == ("ready", None)
        assert (await second.ask("The deposit is 2,400 euros."))["headers"]["x-document-id"] == "lease"
        assert second.workers[0].bodies[-1]["cache_salt"] == old
        gate.open()
        assert await second.finished(shown["job"]["id"]) == "ready"


async def test_what_was_removed_is_cleared_by_the_next_gateway(house: House) -> None:
    async with house.gateway().running() as first:
        await first.add(LEASE, id="lease")
        salt = first.workers[0].bodies[0]["cache_salt"]
        first.kv_server.problem = "is down"
        await first.json("DELETE", "/v1/documents/lease")
    assert salt in house.host.disk
    async with house.gateway().running() as second:
        await eventually(lambda: second.kv_server.deleted == [salt])
        assert salt not in house.host.disk


# --- another engine


def model(folder: Path, **changes: Any) -> Model:
    return Model(**{"name": "small", "path": folder / "model", "context_tokens": CONTEXT, **changes})


@pytest.mark.parametrize("changed", ["versions", "revision", "dtype", "chunk size"])
async def test_another_engine_reads_every_document_again_and_meets_no_old_kv(kept: House, changed: str) -> None:
    changes: dict[str, Any] = {
        "versions": {"versions": {"vllm": "1", "lmcache": "0"}},
        "revision": {"model": model(kept.folder, revision="2")},
        "dtype": {"model": model(kept.folder, dtype="float32")},
        "chunk size": {"engine": _engine(kept, 2 * CHUNK)},
    }[changed]
    async with kept.gateway().running() as first:
        added = await first.add(LEASE, id="lease", title="The lease", tags=["housing"])
        old = first.workers[0].bodies[0]["cache_salt"]
        cost = first.workers[0].prefilled_tokens
    second = kept.gateway(**changes)
    gate = Gate(second.workers[0], lambda body: body["max_tokens"] == 1)
    async with second.running():
        segment = await gate.reached()
        shown = await second.json("GET", "/v1/documents/lease")
        assert (shown["state"], shown["stale"]) == ("ready", True)
        assert (shown["title"], shown["tags"]) == ("The lease", ["housing"])
        assert shown["job"]["id"] != added["job"]["id"]
        # Asked before it was read, the question reads it itself.
        answer = await second.ask(QUESTION, document="lease")
        assert (answer["headers"]["x-cache-tier"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]) == ("none", 0)
        gate.open()
        assert await second.finished(shown["job"]["id"]) == "ready"
        assert segment["cache_salt"] != old
        assert {body["cache_salt"] for body in second.workers[0].bodies} == {segment["cache_salt"]}
        assert second.workers[0].prefilled_tokens >= cost
        await eventually(lambda: second.kv_server.deleted == [old])
        assert (await second.ask(QUESTION, document="lease"))["headers"]["x-cache-tier"] == "ram"
        assert not (await second.json("GET", "/v1/documents/lease"))["stale"]


async def test_stale_documents_are_read_again_in_the_order_of_their_use(kept: House) -> None:
    async with kept.gateway().running() as first:
        for name in ("never-asked", "asked-first", "asked-last"):
            await first.add(f"# {name}\n\nWords.", id=name)
        for name in ("asked-first", "asked-last"):
            await first.ask(QUESTION, document=name)
    second = kept.gateway(versions={"vllm": "1", "lmcache": "0"})
    async with second.running():
        await eventually(lambda: _fresh(second, 3))
        read = await _by_reading(second)
    assert read == ["asked-last", "asked-first", "never-asked"]


async def _fresh(gateway: Gateway, number: int) -> bool:
    shown = (await gateway.json("GET", "/v1/documents"))["data"]
    return sum(not document["stale"] and document["job"] is None for document in shown) == number


async def _by_reading(gateway: Gateway) -> list[str]:
    """The documents in the order in which their prefixes were read first."""
    salts = list(dict.fromkeys(body["cache_salt"] for body in gateway.workers[0].bodies))
    versions = {d.current.salt: d.id for d in await gateway.store.documents() if d.current is not None}
    return [versions[salt] for salt in salts]


def _engine(house: House, chunk_tokens: int) -> Any:
    return replace(house.gateway().config.engine, chunk_tokens=chunk_tokens)


async def test_the_same_engine_again_reads_nothing(kept: House) -> None:
    async with kept.gateway().running() as first:
        await first.add(LEASE, id="lease")
    async with kept.gateway(versions=first.versions, model=model(kept.folder)).running() as second:
        assert (await second.json("GET", "/v1/documents/lease"))["state"] == "ready"
        assert second.workers[0].bodies == []


async def test_an_engine_that_a_document_no_longer_fits_says_so_and_serves_the_others(kept: House) -> None:
    async with kept.gateway().running() as first:
        added = await first.add(LEASE, id="lease")
        await first.add("# Short\n\nWords.", id="short")
    limit = added["prefix_tokens"] - CHUNK
    smaller = model(kept.folder, revision="2", context_tokens=limit + RESERVE)
    async with kept.gateway(model=smaller).running() as second:
        short = (await second.json("GET", "/v1/documents/short"))["job"]
        if short is not None:
            assert await second.finished(short["id"]) == "ready"
        assert (await second.ask("What?", document="short"))["choices"]
        error = (await second.ask(QUESTION, document="lease", status=409))["error"]
        assert str(limit) in error["message"]
        shown = await second.json("GET", "/v1/documents/lease")
        assert shown["state"] == "failed"
        assert str(added["prefix_tokens"]) in shown["job"]["error"]
        assert str(limit) in shown["job"]["error"]
    async with kept.gateway().running() as third:
        job = (await third.json("GET", "/v1/documents/lease"))["job"]
        assert job is None or await third.finished(job["id"]) == "ready"
        assert (await third.ask(QUESTION, document="lease"))["choices"]
