"""Finds the document a question is about, among those that its tenant may see.

What stands for the documents is in `views.py`, what speaks for each in `index.py`; deciding is `router/matching.py`'s, and
whether a conversation stays `router/conversation.py`'s. Without an embedding model, or while it fails, matching is lexical alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import structlog
from numpy.typing import NDArray

from backends.base import Embedder, Store
from backends.batching import EmbedderOverloaded
from backends.words import content_words
from gateway.shelf.index import Index, embedded, features
from gateway.shelf.matchings import Matchings
from gateway.shelf.views import Views
from observability.telemetry import EVIDENCE, OUTCOME, Telemetry
from router.catalog import Catalog
from router.conversation import continued
from router.descriptors import routing_texts
from router.documents import Descriptor, Document, DocumentId, TenantId, VersionId
from router.errors import KvshelfError, StoreUnavailable
from router.evaluation import Labelled
from router.fitting import Example
from router.matching import Ambiguous, Decision, Matching, NoMatch, Route, Scores, decide, places_of_best, scores

log = structlog.get_logger("classifier")


LEADERS = 3
TURNS = 4
"""So many of a conversation's last questions say which document it is about."""
QUESTION_CHARACTERS = 4000
"""Of a longer one the beginning and the end are read, half each: what is pasted stands between them."""

Leading = Callable[[list[tuple[Document, float]]], None]


class Classifier:
    def __init__(
        self,
        store: Store,
        embedder: Embedder | None,
        matchings: Matchings,
        telemetry: Telemetry,
        *,
        problem: str | None = None,
        min_score: float,
        margin: float,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._matchings = matchings
        self._telemetry = telemetry
        self._min_score = min_score
        self._margin = margin
        self._views = Views()
        self.problem = problem
        """What keeps routing from being as good as it is configured to be."""

    async def learn(self, version_id: VersionId, descriptor: Descriptor, text: str) -> None:
        """Take a version in, or its changed descriptor. Embeds what is not embedded yet; stores the vectors."""
        texts = routing_texts(descriptor, text)
        vectors = await self._embed(texts)
        if vectors is not None:
            await self._store.set_vectors(version_id, vectors.astype(np.float16).tobytes(), self._embedder_name)
        self._views.put(version_id, await asyncio.to_thread(features, descriptor, text, vectors))

    async def recall(self, version_id: VersionId, descriptor: Descriptor) -> None:
        """Take a stored version in, with its stored vectors where they fit the embedding model and the texts."""
        content = await self._store.content(version_id)
        texts = routing_texts(descriptor, content.text)
        vectors = np.frombuffer(content.vectors, dtype=np.float16)
        if self._embedder is not None and (
            content.embedder != self._embedder_name or not vectors.size or vectors.size % len(texts)
        ):
            await self.learn(version_id, descriptor, content.text)
            return
        known = vectors.reshape(len(texts), -1) if self._embedder is not None else None
        self._views.put(version_id, await asyncio.to_thread(features, descriptor, content.text, known))

    def forget(self, version_id: VersionId) -> None:
        self._views.forget(version_id)

    async def find(self, catalog: Catalog, tenant: TenantId, turns: Sequence[str], leading: Leading = lambda _: None) -> Decision:
        """What to do with a question that names no document. `turns`: what the user said so far, the question last.

        `leading` is told which documents lead, each with its share of their scores: by words alone while the question
        is being embedded, and again where the question then goes to none of them.
        """
        started = time.perf_counter()
        turns = [_shortened(turn) for turn in turns[-TURNS:]]
        decision: Decision = NoMatch(())
        asked: NDArray[np.float32] | None = None
        index = await self._views.of(catalog, tenant)
        if len(index):
            leading(_leaders(index.documents, index.lexical(content_words(turns[-1]))[0]))
            matching = await self._matchings.get(tenant)
            index, asked = await self._asked(index, catalog, tenant, turns)
            about: Document | None = None
            for number, turn in enumerate(turns):
                decision, found = self._decide(index, turn, asked[number] if asked is not None else None, matching)
                decision = continued(decision, about, min_score=self._min_score)
                if isinstance(decision, Route):
                    about = _document(index, decision.document)
            if isinstance(decision, Ambiguous):
                leading(_leaders(index.documents, found))
        self._telemetry.routing_time.record(time.perf_counter() - started)
        by = "words" if asked is None else "all"
        self._telemetry.routes.add(1, {OUTCOME: str(type(decision).__struct_config__.tag), EVIDENCE: by})
        return decision

    async def volume(self, catalog: Catalog, tenant: TenantId, document: Document, turns: Sequence[str]) -> Document:
        """The volume of the document that a conversation's last question is about: the best one, however little it leads.

        Each question counts half as much as the one after it. Ties go to the volume that comes first in the text.
        """
        index = await self._views.of_volumes(catalog, document)
        if len(index) < 2:
            return (*index.documents, *catalog.answering(document))[0]
        turns = [_shortened(turn) for turn in turns[-TURNS:]]
        asked = await self._embed(tuple(turns))
        matching = await self._matchings.get(tenant)
        total = np.zeros(len(index), dtype=np.float32)
        for number, turn in enumerate(turns):
            total /= 2
            evidence = index.evidence(index.lexical(content_words(turn)), asked[number] if asked is not None else None, matching)
            total += scores(evidence, matching.parameters(evidence))
            if (named := index.named(turn)) is not None:
                total[named] += 1
        return index.documents[int(np.argmax(total))]

    async def examples(
        self, catalog: Catalog, tenant: TenantId, labelled: Sequence[Labelled]
    ) -> tuple[tuple[Document, ...], list[Example]]:
        """What the tenant's documents are, and what speaks for each of them by these questions."""
        questions = [_shortened(one.question) for one in labelled]
        index, asked = await self._asked(await self._views.of(catalog, tenant), catalog, tenant, questions)
        matching = await self._matchings.get(tenant)
        places = {document.id: place for place, document in enumerate(index.documents)}
        found = []
        for number, one in enumerate(labelled):
            words = content_words(questions[number])
            evidence = index.evidence(index.lexical(words), asked[number] if asked is not None else None, matching)
            found.append(Example(evidence, len(words), places.get(DocumentId(one.document or ""))))
        return index.documents, found

    def _decide(
        self, index: Index, question: str, asked: NDArray[np.float32] | None, matching: Matching
    ) -> tuple[Decision, Scores]:
        words = content_words(question)
        evidence = index.evidence(index.lexical(words), asked, matching)
        decision = decide(
            index.documents,
            evidence,
            len(words),
            matching,
            min_score=self._min_score,
            margin=self._margin,
            named=index.named(question),
        )
        return decision, scores(evidence, matching.parameters(evidence))

    async def _asked(
        self, index: Index, catalog: Catalog, tenant: TenantId, questions: Sequence[str]
    ) -> tuple[Index, NDArray[np.float32] | None]:
        """The questions' vectors (None where they can't be had), and the index: a new one where it lacked vectors."""
        asked = await self._embed(tuple(questions))
        if asked is not None and not index.is_embedded:
            answering = (one for document in index.documents for one in catalog.answering(document))
            await self._complete([one.current.id for one in answering if one.current is not None])
            index = await self._views.of(catalog, tenant)
        return index, asked

    async def _complete(self, versions: Sequence[VersionId]) -> None:
        """Embed what was learnt while the embedding model was away: until then all of a tenant's routing is lexical."""
        for version_id in versions:
            before = self._views.get(version_id)
            if before is None or before.vectors is not None or (vectors := await self._embed(before.texts)) is None:
                continue
            with suppress(StoreUnavailable):  # a question does not fail for it; it is embedded again after a restart
                await self._store.set_vectors(version_id, vectors.astype(np.float16).tobytes(), self._embedder_name)
            if self._views.get(version_id) is before:
                self._views.put(version_id, embedded(before, vectors))

    async def _embed(self, texts: tuple[str, ...]) -> NDArray[np.float32] | None:
        if self._embedder is None:
            return None
        try:
            vectors = await self._embedder.embed(texts)
        except EmbedderOverloaded:
            return None  # for this question; the next one may be embedded again, and the counter of routes tells of it
        except (KvshelfError, RuntimeError) as error:
            if self.problem is None:
                log.warning("embedding_failed", error=str(error), consequence="routing is lexical only")
            self.problem = f"{error}: routing is lexical only"
            return None
        self.problem = None
        return vectors

    @property
    def _embedder_name(self) -> str:
        return self._embedder.name if self._embedder is not None else ""


def _document(index: Index, document_id: DocumentId) -> Document:
    return next(document for document in index.documents if document.id == document_id)


def _shortened(question: str) -> str:
    half = QUESTION_CHARACTERS // 2
    return question if len(question) <= QUESTION_CHARACTERS else f"{question[:half]} {question[-half:]}"


def _leaders(documents: tuple[Document, ...], found: Scores) -> list[tuple[Document, float]]:
    """The best few, each with its share of their scores."""
    best = places_of_best(documents, found, LEADERS)
    total = sum(float(found[place]) for place in best)
    return [(documents[place], float(found[place]) / total) for place in best if found[place] > 0]
