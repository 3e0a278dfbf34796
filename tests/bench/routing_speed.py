"""How long routing takes, alone and under load, with many documents, and whether the event loop waits for it. No engine runs.

Questions are the project's own, embedded by the real model through the gateway's own line. Documents are made up: their words are
drawn from a vocabulary by Zipf's law, their vectors at random: neither changes how long matching takes.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import numpy as np

from backends.base import Vectors
from backends.batching import BatchingEmbedder
from backends.embedding import SentenceEmbedder
from backends.words import content_words
from gateway.evaluation import questions
from gateway.shelf.classifier import Classifier
from gateway.shelf.index import Index, features
from gateway.shelf.matchings import Matchings
from observability.telemetry import Telemetry
from router.catalog import Catalog
from router.defaults import MATCHING
from router.descriptors import routing_texts
from router.documents import Descriptor, Document, DocumentId, Owner, TenantId
from router.matching import Thresholds, decide
from router.viewers import Viewer
from tests.bench import measure
from tests.bench.measure import Times
from tests.bench.routing_sets import MODEL, SETS
from tests.fakes.store import MemoryStore
from tests.fakes.versions import ready

SIZES = (1_000, 10_000)
PASSAGES, PASSAGE_WORDS = 30, 100
VOCABULARY = 50_000
VIEWER = Viewer(TenantId("tenant"))
AT_ONCE = (1, 8, 32)
SECONDS = 10.0
TICK_S = 0.002


async def run() -> None:
    asked = [one.question for name in ("samples", "manpages") for one in questions.read(SETS / f"{name}.jsonl")]
    model = SentenceEmbedder(MODEL)
    await model.open()
    try:
        rows = []
        for size in SIZES:
            documents = _documents(size)
            rows.append(await _search(documents, asked, model))
            if size == SIZES[0]:
                await _routed(documents, asked, model)
        heads = ("documents", "passages", "index built, s", "search p50, ms", "search p99, ms", "loop lag while building, p99, ms")
        measure.show("searching an index, the question embedded already", heads, rows)
    finally:
        model.close()


async def _routed(documents: list[tuple[Document, str, Vectors]], asked: list[str], model: SentenceEmbedder) -> None:
    """Whole questions: embedded, matched, decided."""
    telemetry, store = Telemetry(), MemoryStore()
    await store.open()
    embedder = BatchingEmbedder(model, max_waiting=512)
    classifier = Classifier(store, embedder, Matchings(store, now=time.time), telemetry, Thresholds())
    catalog = Catalog(tuple(document for document, _, _ in documents))
    for document, text, vectors in documents:
        assert document.current is not None
        classifier._views.put(document.current.id, features(document.descriptor, text, vectors))
    await classifier.find(catalog, VIEWER, asked[:1])
    rows, numbers = [], itertools.count()
    for at_once in AT_ONCE:
        # No question twice: one that was asked before is not embedded again.
        asking = (f"{question} {next(numbers)}" for question in itertools.cycle(asked))
        taken: list[float] = []

        async def one(asking: Iterator[str] = asking, taken: list[float] = taken) -> None:
            started = time.perf_counter()
            await classifier.find(catalog, VIEWER, [next(asking)])
            taken.append(time.perf_counter() - started)

        used, ticking, lags = time.process_time(), asyncio.Event(), list[float]()
        watching = asyncio.create_task(_lag(ticking, lags))
        a_second = await measure.at_once(one, connections=at_once, seconds=SECONDS)
        ticking.set()
        await watching
        cores = (time.process_time() - used) / SECONDS
        times = Times(taken)
        rows.append(
            [
                str(at_once),
                *(f"{1000 * value:.1f}" for value in (times.p50, times.p99)),
                f"{a_second:.0f}",
                f"{a_second / cores:.0f}",
                f"{1000 * Times(lags).p99:.1f}",
            ]
        )
    heads = ("questions at once", "p50, ms", "p99, ms", "a second", "a second a core", "loop lag p99, ms")
    measure.show(f"routing with {len(documents):,} documents", heads, rows)
    embedder.close()
    telemetry.close()


async def _search(documents: list[tuple[Document, str, Vectors]], asked: list[str], model: SentenceEmbedder) -> list[str]:
    known = [features(document.descriptor, text, vectors) for document, text, vectors in documents]
    ticking, lags, started = asyncio.Event(), list[float](), time.perf_counter()
    watching = asyncio.create_task(_lag(ticking, lags))
    index = await asyncio.to_thread(Index, [document for document, _, _ in documents], known)
    built_s = time.perf_counter() - started
    ticking.set()
    await watching
    taken = []
    for question, vector in zip(asked, await model.embed(asked), strict=True):
        started = time.perf_counter()
        words = content_words(question)
        evidence = index.evidence(index.lexical(words), vector, MATCHING)
        decide(index.documents, evidence, len(words), MATCHING, Thresholds(), named=index.named(question))
        taken.append(time.perf_counter() - started)
    times = Times(taken)
    passages = sum(len(one.texts) for one in known)
    cells = (built_s, 1000 * times.p50, 1000 * times.p99, 1000 * Times(lags).p99)
    return [f"{len(documents):,}", f"{passages:,}", *(f"{cell:.1f}" for cell in cells)]


async def _lag(stop: asyncio.Event, lags: list[float]) -> None:
    """How much later than asked for the loop comes back, again and again."""
    while not stop.is_set():
        started = time.perf_counter()
        await asyncio.sleep(TICK_S)
        lags.append(time.perf_counter() - started - TICK_S)


def _documents(count: int) -> list[tuple[Document, str, Vectors]]:
    rng = np.random.default_rng(1)
    words = np.array([f"word{number}" for number in range(VOCABULARY)])
    known = [
        word for name in ("samples", "manpages") for one in questions.read(SETS / f"{name}.jsonl") for word in one.question.split()
    ]
    words[: len(known)] = known  # the most frequent ones: a question's words are met in many documents
    shares = 1 / np.arange(1, VOCABULARY + 1)
    shares /= shares.sum()
    made = []
    for number in range(count):
        drawn = words[rng.choice(VOCABULARY, (PASSAGES, PASSAGE_WORDS), p=shares)]
        text = "\n\n".join(f"# Part {place}\n\n{' '.join(row)}" for place, row in enumerate(drawn))
        version = ready(str(number))
        descriptor = Descriptor(f"Document {number}")
        document = Document(owner=Owner(VIEWER.tenant), id=DocumentId(f"document{number}x"), descriptor=descriptor, current=version)
        vectors = rng.standard_normal((len(routing_texts(descriptor, text)), 384), dtype=np.float32)
        made.append((document, text, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)))
    return made
