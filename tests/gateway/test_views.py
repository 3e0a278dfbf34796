"""Each tenant's index: built anew only where its view changed, once for all who wait, and never one with what it may not see."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from gateway.shelf import views as module
from gateway.shelf.index import Features, Index
from gateway.shelf.views import Views
from router.catalog import Catalog
from router.documents import Descriptor, Document, DocumentId, Owner, TenantId
from router.viewers import Viewer
from tests.fakes.gateway import eventually
from tests.fakes.versions import ready

ACME, OTHER = Viewer(TenantId("acme")), Viewer(TenantId("other"))


def document(name: str, owner: str = "acme", version: str = "1") -> Document:
    return Document(
        owner=Owner(owner), id=DocumentId(name), descriptor=Descriptor(name), current=ready(f"{owner}-{name}-{version}")
    )


class Shelves:
    """A catalog and its views; building an index waits for `may_build`, and is counted."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.views = Views()
        self.may_build = threading.Event()
        self.may_build.set()
        self.built = 0

    def put(self, *documents: Document) -> None:
        for one in documents:
            assert one.current is not None
            self.catalog = self.catalog.with_document(one)
            self.views.put(one.current.id, Features((one.id,), ([one.id],), frozenset()))

    def remove(self, one: Document) -> None:
        assert one.current is not None
        self.catalog = self.catalog.without(one.owner, one.id)
        self.views.forget(one.current.id)

    def build(self, *arguments: object) -> Index:
        assert self.may_build.wait(10)
        self.built += 1
        return Index(*arguments)  # type: ignore[arg-type]

    async def ids(self, viewer: Viewer = ACME) -> list[str]:
        return [one.id for one in (await self.views.of(self.catalog, viewer)).documents]


def runs_in_a_thread(task: asyncio.Task[object]) -> bool:
    """Of all tasks only these: a loop that serves several tests may have others, which never end."""
    return getattr(task.get_coro(), "__qualname__", "") == asyncio.to_thread.__qualname__


@pytest.fixture
def shelves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelves]:
    made = Shelves()
    monkeypatch.setattr(module, "Index", made.build)
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    yield made
    made.may_build.set()


async def test_an_index_is_built_once_while_nothing_changes(shelves: Shelves) -> None:
    shelves.put(document("a"), document("b"))
    assert [await shelves.ids() for _ in range(3)] == [["a", "b"]] * 3
    assert shelves.built == 1


async def test_another_tenants_document_needs_no_new_index(shelves: Shelves) -> None:
    shelves.put(document("a"))
    await shelves.ids()
    shelves.put(document("x", "other"))
    assert await shelves.ids() == ["a"]
    assert shelves.built == 1
    assert await shelves.ids(OTHER) == ["x"]


async def test_who_asks_at_once_waits_for_the_same_index(shelves: Shelves) -> None:
    shelves.put(document("a"))
    shelves.may_build.clear()
    asking = [asyncio.create_task(shelves.ids()) for _ in range(20)]
    await asyncio.sleep(0)
    shelves.may_build.set()
    assert await asyncio.gather(*asking) == [["a"]] * 20
    assert shelves.built == 1


async def test_while_a_new_index_is_built_the_older_one_answers_and_then_the_new_one(shelves: Shelves) -> None:
    shelves.put(document("a"))
    await shelves.ids()
    shelves.put(document("b"))
    shelves.may_build.clear()
    assert await shelves.ids() == ["a"]
    shelves.may_build.set()

    async def newest() -> bool:
        return await shelves.ids() == ["a", "b"]

    await eventually(newest)
    assert shelves.built == 2


async def test_an_index_that_is_ready_when_nobody_waits_any_more_answers_the_next_question(shelves: Shelves) -> None:
    """Else whoever asks seldom, of many documents, would go by the older one for ever: it takes seconds to build the new one."""
    shelves.put(document("a"))
    await shelves.ids()
    shelves.put(document("b"))
    shelves.may_build.clear()
    assert await shelves.ids() == ["a"]
    shelves.may_build.set()
    await eventually(lambda: shelves.built == 2)
    await asyncio.gather(*(task for task in asyncio.all_tasks() if runs_in_a_thread(task)))
    shelves.may_build.clear()
    assert await shelves.ids() == ["a", "b"]
    assert shelves.built == 2


async def test_an_older_index_that_is_ready_later_takes_nobodys_place(shelves: Shelves) -> None:
    shelves.put(document("a"))
    shelves.may_build.clear()
    first = asyncio.create_task(shelves.ids())
    await asyncio.sleep(0)
    shelves.put(document("b"))
    second = asyncio.create_task(shelves.ids())
    await asyncio.sleep(0)
    shelves.may_build.set()
    assert await second == ["a", "b"]
    assert await first == ["a"]
    assert await shelves.ids() == ["a", "b"]
    assert shelves.built == 2


async def test_an_index_with_a_removed_document_answers_nobody(shelves: Shelves) -> None:
    a, b = document("a"), document("b")
    shelves.put(a, b)
    await shelves.ids()
    shelves.remove(b)
    shelves.may_build.clear()
    asking = asyncio.create_task(shelves.ids())
    done, _ = await asyncio.wait({asking}, timeout=0.05)
    assert not done
    shelves.may_build.set()
    assert await asking == ["a"]


async def test_who_leaves_while_waiting_does_not_stop_it_for_the_others(shelves: Shelves) -> None:
    shelves.put(document("a"))
    shelves.may_build.clear()
    leaving, staying = asyncio.create_task(shelves.ids()), asyncio.create_task(shelves.ids())
    await asyncio.sleep(0)
    leaving.cancel()
    shelves.may_build.set()
    assert await staying == ["a"]
    assert shelves.built == 1


async def test_new_features_of_the_same_version_count(shelves: Shelves) -> None:
    shelves.put(document("a"))
    before = await shelves.views.of(shelves.catalog, ACME)
    shelves.put(document("a"))
    assert await shelves.views.of(shelves.catalog, ACME) is not before


async def test_a_narrowed_viewers_index_holds_what_it_may_see_and_no_more(shelves: Shelves) -> None:
    shelves.put(document("a"), document("b"), document("c"))
    narrow = Viewer(ACME.tenant, frozenset({DocumentId("a"), DocumentId("c")}))
    assert await shelves.ids(narrow) == ["a", "c"]
    assert await shelves.ids() == ["a", "b", "c"]
    assert await shelves.ids(Viewer(OTHER.tenant, narrow.documents)) == []


async def test_the_indexes_that_were_used_last_are_kept(shelves: Shelves, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VIEWERS_KEPT", 2)
    shelves.put(*(document(name) for name in "abc"))
    viewers = [Viewer(ACME.tenant, frozenset({DocumentId(name)})) for name in "abc"]
    for asked, built in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        assert await shelves.ids(viewers[asked]) == ["abc"[asked]]
        assert shelves.built == built
