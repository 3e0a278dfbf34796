"""Every document is read anew after a change of the engine: in which order, how many at a time, and what else happens meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.base import Content
from gateway.ingestion import renewal
from router.documents import VersionId, VersionState, content_digest
from router.errors import StoreUnavailable
from tests.fakes.engine import FakeHost, Gate
from tests.fakes.gateway import Gateway, eventually
from tests.fakes.store import MemoryStore

QUESTION = "What is it about?"
OTHER = {"vllm": "1", "lmcache": "0"}
NEW = "# a\n\nNow about something else."


class HeldStore(MemoryStore):
    """Holds the reading of contents from the `at`-th on, or refuses new versions."""

    def __init__(self) -> None:
        super().__init__()
        self.at: int | None = None
        self.may = asyncio.Event()
        self.held = asyncio.Event()
        self.refuses = 0
        self.most_waiting = 0

    async def content(self, version_id: VersionId) -> Content:
        found = await super().content(version_id)
        if self.at is not None:
            self.at -= 1
            if self.at < 0:
                self.held.set()
                await self.may.wait()
        return found

    async def add_version(self, *args: object) -> None:
        if self.refuses:
            self.refuses -= 1
            raise StoreUnavailable("The database is away.")
        await super().add_version(*args)  # type: ignore[arg-type]
        waiting = sum(d.incoming is not None and d.incoming.state is not VersionState.FAILED for d in self._documents.values())
        self.most_waiting = max(self.most_waiting, waiting)


def document(name: str) -> str:
    return f"# {name}\n\nAll about {name}."


async def shelved(folder: Path, *names: str, asked: str = "") -> tuple[HeldStore, FakeHost]:
    """What a gateway leaves behind that read these documents, by an engine that is another now."""
    store, host = HeldStore(), FakeHost()
    async with Gateway(folder, store=store, host=host).running() as first:
        for name in names:
            await first.add(document(name), id=name)
        for name in asked:
            await first.ask(QUESTION, document=name)
    return store, host


async def fresh(gateway: Gateway) -> list[str]:
    """The documents that were read anew and wait for nothing."""
    shown = (await gateway.json("GET", "/v1/documents"))["data"]
    return [found["id"] for found in shown if not found["stale"] and found["job"] is None]


async def all_fresh(gateway: Gateway, number: int) -> bool:
    return len(await fresh(gateway)) == number


async def order(gateway: Gateway) -> list[str]:
    """The documents in the order in which they were read."""
    salts = dict.fromkeys(body["cache_salt"] for body in gateway.workers[0].bodies)
    versions = {d.current.salt: d.id for d in await gateway.store.documents() if d.current is not None}
    return [versions[salt] for salt in salts]


async def test_the_last_asked_is_first_and_few_wait_at_a_time(tmp_path: Path) -> None:
    store, host = await shelved(tmp_path, *"abcdefghij", asked="djg")
    second = Gateway(tmp_path, store=store, host=host, versions=OTHER)
    gate = Gate(second.workers[0])  # or readings would be done before four of them wait
    async with second.running():
        await eventually(lambda: store.most_waiting == renewal.AT_ONCE)
        gate.open()
        await eventually(lambda: all_fresh(second, 10))
        assert store.most_waiting == renewal.AT_ONCE
        read = await order(second)
    assert read[:3] == ["g", "j", "d"]
    assert sorted(read) == list("abcdefghij")


async def test_a_document_that_is_added_meanwhile_waits_for_those_few_only(tmp_path: Path) -> None:
    store, host = await shelved(tmp_path, *"abcdefghij")
    second = Gateway(tmp_path, store=store, host=host, versions=OTHER)
    gate = Gate(second.workers[0])
    async with second.running():
        await gate.reached()
        await second.add(document("z"), id="z", ready=False)
        gate.open()
        await eventually(lambda: all_fresh(second, 11))
        assert (await order(second)).index("z") <= renewal.AT_ONCE


async def test_while_the_database_is_away_it_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "RETRY_S", 0.01)
    store, host = await shelved(tmp_path, *"abc")
    store.refuses = 5
    async with Gateway(tmp_path, store=store, host=host, versions=OTHER).running() as second:
        await eventually(lambda: all_fresh(second, 3))
    assert store.refuses == 0


async def test_one_whose_content_is_lost_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    store, host = await shelved(tmp_path, *"abc")
    lost = next(d.current for d in store._documents.values() if d.id == "b")
    assert lost is not None
    lost_id = lost.id

    class Lossy(HeldStore):
        calls = 0

        async def content(self, version_id: VersionId) -> Content:
            Lossy.calls += version_id == lost_id
            if version_id == lost_id and Lossy.calls > 1:  # it was there at the start
                self._contents.pop(lost_id, None)
            return await super().content(version_id)

    lossy = Lossy()
    lossy.__dict__.update(store.__dict__)
    async with Gateway(tmp_path, store=lossy, host=host, versions=OTHER).running() as second:
        await eventually(lambda: all_fresh(second, 2))
        assert await fresh(second) == ["a", "c"]
        assert Lossy.calls < 10


# --- what is done to a document while its old content is fetched to be read anew


async def test_new_content_that_comes_meanwhile_is_not_replaced_by_the_old(tmp_path: Path) -> None:
    store, host = await shelved(tmp_path, "a")
    store.at = 1  # the classifier's look at the start
    async with Gateway(tmp_path, store=store, host=host, versions=OTHER).running() as second:
        await store.held.wait()
        added = await second.add(NEW, id="a", ready=False)
        store.may.set()
        assert await second.finished(added["job"]["id"]) == "ready"
        await eventually(lambda: all_fresh(second, 1))
        (kept,) = await store.documents()
    assert kept.current is not None
    assert kept.current.digest == content_digest(NEW)


async def test_what_is_removed_meanwhile_stays_removed(tmp_path: Path) -> None:
    store, host = await shelved(tmp_path, *"ab")
    store.at = 2
    async with Gateway(tmp_path, store=store, host=host, versions=OTHER).running() as second:
        await store.held.wait()
        await second.json("DELETE", "/v1/documents/a")
        await second.json("DELETE", "/v1/documents/b")
        store.may.set()
        await second.add(document("z"), id="z")
        assert [d.id for d in await store.documents()] == ["z"]
        await second.json("GET", "/v1/documents/a", status=404)


async def test_a_title_that_is_changed_meanwhile_is_kept(tmp_path: Path) -> None:
    store, host = await shelved(tmp_path, "a")
    store.at = 1
    async with Gateway(tmp_path, store=store, host=host, versions=OTHER).running() as second:
        await store.held.wait()
        changing = asyncio.create_task(second.json("PATCH", "/v1/documents/a", json={"title": "Another"}))
        await eventually(lambda: store.at is not None and store.at <= -2)
        store.may.set()
        await changing
        await eventually(lambda: all_fresh(second, 1))
        assert (await second.json("GET", "/v1/documents/a"))["title"] == "Another"


async def test_an_engine_that_is_as_it_was_before_needs_nothing_anew(tmp_path: Path) -> None:
    store, host = await shelved(tmp_path, "a")
    second = Gateway(tmp_path, store=store, host=host, versions=OTHER)
    gate = Gate(second.workers[0])
    async with second.running():
        await gate.reached()
    async with Gateway(tmp_path, store=store, host=host).running() as third:
        assert await all_fresh(third, 1)
        assert (await third.ask(QUESTION, document="a"))["headers"]["x-cache-tier"] == "disk"
        assert len(third.workers[0].bodies) == 1
