"""Finding documents while they change, and while the embedding model is away."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from backends.base import Content, Vectors
from backends.batching import EmbedderOverloaded
from gateway.shelf.classifier import Classifier
from gateway.shelf.matchings import Matchings
from observability.telemetry import Telemetry
from router.catalog import Catalog
from router.documents import Descriptor, Document, DocumentId, Owner, TenantId, Version
from router.matching import Route, Thresholds
from router.viewers import Viewer
from tests.fakes.embedder import FakeEmbedder
from tests.fakes.gateway import Gateway
from tests.fakes.store import MemoryStore
from tests.fakes.versions import ready

LONG = "\n\n".join(f"# Part {number}\n\n" + "one sentence after another. " * 20 for number in range(200))
"""Its index takes long enough to build for something to happen meanwhile."""


class Library:
    """A classifier and what it has learnt, without the rest of the gateway."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.store = MemoryStore()
        self.classifier = Classifier(
            self.store, FakeEmbedder(), Matchings(self.store, now=time.time), telemetry, Thresholds(0.2, 0.02)
        )
        self.catalog = Catalog()

    async def learn(self, owner: str, name: str, text: str, title: str = "x") -> Version:
        version = ready(f"{owner}-{name}")
        document = Document(owner=Owner(owner), id=DocumentId(name), descriptor=Descriptor(title), current=version)
        if self.catalog.get(document.owner, document.id) is None:
            await self.store.add_version(document, version, Content(text, b""))
        self.catalog = self.catalog.with_document(document)
        await self.classifier.learn(version.id, document.descriptor, text)
        return version


@pytest.fixture
async def library() -> AsyncIterator[Library]:
    telemetry = Telemetry()
    library = Library(telemetry)
    await library.store.open()
    yield library
    telemetry.close()


async def test_a_descriptor_changed_while_an_index_is_built_counts_from_then_on(library: Library) -> None:
    await library.learn("a", "long", LONG)
    finding = asyncio.create_task(library.classifier.find(library.catalog, Viewer(TenantId("a")), ["penguins"]))
    await asyncio.sleep(0)
    await library.learn("a", "long", LONG, title="penguins migrate")
    await finding
    decision = await library.classifier.find(library.catalog, Viewer(TenantId("a")), ["penguins migrate"])
    assert isinstance(decision, Route)
    assert decision.score > 0.7  # the old title has no word of it


async def test_a_version_cleared_while_another_index_is_built_fails_no_question(library: Library) -> None:
    await library.learn("a", "long", LONG)
    short = await library.learn("b", "short", "penguins migrate")
    finding = [
        asyncio.create_task(library.classifier.find(library.catalog, Viewer(TenantId(tenant)), ["penguins migrate"]))
        for tenant in ("a", "b")
    ]
    await asyncio.sleep(0)
    library.classifier.forget(short.id)
    _, found = await asyncio.gather(*finding)
    assert isinstance(found, Route)
    assert found.document == "short"


async def test_without_the_embedding_model_routing_is_lexical_and_health_says_so(gateway: Gateway) -> None:
    await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
    gateway.embedder.broken = True
    routed = await gateway.json("POST", "/v1/route", json={"question": "How many euros is the deposit?"})
    assert routed["document"] == "lease"
    report = await gateway.health()
    assert report["status"] == "degraded"
    assert report["problems"]["embedding"] == "the embedding model fell over: routing is lexical only"
    gateway.embedder.broken = False
    await gateway.json("POST", "/v1/route", json={"question": "How many euros is the deposit?"})
    assert (await gateway.health())["problems"] == {}


async def test_a_document_read_without_the_embedding_model_is_embedded_when_it_is_back(gateway: Gateway) -> None:
    """Until then no document of the tenant is matched by meaning, and health would not say so."""
    await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
    gateway.embedder.broken = True
    await gateway.add("# Expenses\n\nTaxis need a receipt.", id="expenses")
    question = {"question": "Do all taxis need one?"}
    lexical = await gateway.json("POST", "/v1/route", json=question)
    assert lexical["candidates"][0]["document"] == "expenses"
    gateway.embedder.broken = False
    both = await gateway.json("POST", "/v1/route", json=question)
    assert both != lexical
    embedded = gateway.embedder.texts
    await gateway.json("PATCH", "/v1/documents/expenses", json={"summary": ""})  # has it learnt anew, by the book
    assert gateway.embedder.texts > embedded
    assert await gateway.json("POST", "/v1/route", json=question) == both


async def test_an_overloaded_embedding_model_makes_this_question_lexical_and_no_alarm(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")

    async def overloaded(texts: Sequence[str]) -> Vectors:
        raise EmbedderOverloaded("too many")

    monkeypatch.setattr(gateway.embedder, "embed", overloaded)
    routed = await gateway.json("POST", "/v1/route", json={"question": "How many euros is the deposit?"})
    assert routed["document"] == "lease"
    assert (await gateway.health())["problems"] == {}
    metrics = gateway.telemetry.prometheus().decode()
    assert re.search(r'kvshelf_routes_total\{[^}]*kvshelf_evidence="words"[^}]*\} 1\.0', metrics)


async def test_a_conversations_questions_are_embedded_once_each_and_never_as_a_document(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several texts in one call wait behind the documents that are being embedded, each of their passages."""
    await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
    calls: list[int] = []
    embed = gateway.embedder.embed

    async def watched(texts: Sequence[str]) -> Vectors:
        calls.append(len(texts))
        return await embed(texts)

    monkeypatch.setattr(gateway.embedder, "embed", watched)
    turns = ["How many euros is the deposit?", "And how long?", "Why?"]
    for number in range(1, 4):
        asked = {"question": turns[number - 1], "earlier": turns[: number - 1]}
        assert (await gateway.json("POST", "/v1/route", json=asked))["document"] == "lease"
    assert calls == [1, 1, 1]
    other = await gateway.new_key("tenant-b")
    await gateway.add("# Lease\n\nThe rent is due.", id="lease", key=other)
    calls.clear()
    await gateway.json("POST", "/v1/route", json={"question": turns[0]}, key=other)
    assert calls == [1]  # what one tenant asked makes no other's answer faster
