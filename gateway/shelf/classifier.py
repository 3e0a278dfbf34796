"""Finds the document a question is about, among those that its tenant may see.

Keeps what stands for each version (texts and vectors) and one index a tenant's view, rebuilt when the view changes
and never shared between tenants. Scoring and deciding are `router/matching.py`'s; without an embedding model, or
while it fails, matching is lexical alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from backends.base import Embedder, Store
from backends.words import content_words
from gateway.shelf.index import Features, Index, features
from observability.telemetry import OUTCOME, Telemetry
from router.conversation import continued
from router.defaults import MATCHING
from router.descriptors import routing_texts
from router.documents import Catalog, Descriptor, Document, TenantId, VersionId
from router.errors import KvshelfError, StoreUnavailable
from router.matching import Ambiguous, Decision, NoMatch, Route, Scores, decide, scores
from router.naming import identifiers

log = structlog.get_logger("classifier")


LEADERS = 3
TURNS = 4
"""So many of a conversation's last questions say which document it is about."""
QUESTION_CHARACTERS = 4000
"""Of a longer one the beginning and the end are read, half each: what is pasted stands between them."""

Leading = Callable[[list[tuple[Document, float]]], None]


class _View(msgspec.Struct, frozen=True):
    """The index of what one tenant sees."""

    index: Index
    versions: tuple[VersionId, ...]


class Classifier:
    def __init__(
        self,
        store: Store,
        embedder: Embedder | None,
        telemetry: Telemetry,
        *,
        problem: str | None = None,
        min_score: float,
        margin: float,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._telemetry = telemetry
        self._min_score = min_score
        self._margin = margin
        self._features: dict[VersionId, Features] = {}
        self._indexes: dict[TenantId, _View] = {}
        self._building = asyncio.Lock()
        self.problem = problem
        """What keeps routing from being as good as it is configured to be."""

    async def learn(self, version_id: VersionId, descriptor: Descriptor, text: str) -> None:
        """Take a version in, or its changed descriptor. Embeds what is not embedded yet; stores the vectors."""
        texts = routing_texts(descriptor, text)
        vectors = await self._embed(texts)
        if vectors is not None:
            await self._store.set_vectors(version_id, vectors.astype(np.float16).tobytes(), self._embedder_name)
        self._put(version_id, features(texts, identifiers(text), vectors))

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
        self._put(version_id, features(texts, identifiers(content.text), known))

    def _put(self, version_id: VersionId, known: Features) -> None:
        self._features[version_id] = known
        self._indexes = {}

    def forget(self, version_id: VersionId) -> None:
        self._features.pop(version_id, None)
        self._indexes = {}

    async def find(self, catalog: Catalog, tenant: TenantId, turns: Sequence[str], leading: Leading = lambda _: None) -> Decision:
        """What to do with a question that names no document. `turns`: what the user said so far, the question last.

        `leading` is told which documents lead, each with its share of their scores: by words alone while the question
        is being embedded, and again where the question then goes to none of them.
        """
        started = time.perf_counter()
        turns = [_shortened(turn) for turn in turns[-TURNS:]]
        decision: Decision = NoMatch(())
        view = await self._view(catalog, tenant)
        index = view.index
        if len(index):
            leading(_leaders(index.documents, index.lexical(content_words(turns[-1]))[0]))
            asked = await self._embed(tuple(turns))
            if asked is not None and not index.is_embedded:
                await self._complete(view.versions)
                index = (await self._view(catalog, tenant)).index
            about: Document | None = None
            for number, turn in enumerate(turns):
                decision, scores = self._decide(index, turn, asked[number] if asked is not None else None, about)
                if isinstance(decision, Route):
                    about = next(document for document in index.documents if document.id == decision.document)
            if isinstance(decision, Ambiguous):
                leading(_leaders(index.documents, scores))
        self._telemetry.routing_time.record(time.perf_counter() - started)
        self._telemetry.routes.add(1, {OUTCOME: str(type(decision).__struct_config__.tag)})
        return decision

    def _decide(
        self, index: Index, question: str, asked: NDArray[np.float32] | None, about: Document | None
    ) -> tuple[Decision, Scores]:
        words = content_words(question)
        evidence = index.evidence(index.lexical(words), asked, MATCHING)
        alone = decide(
            index.documents,
            evidence,
            len(words),
            MATCHING,
            min_score=self._min_score,
            margin=self._margin,
            named=index.named(question),
        )
        return continued(alone, about, min_score=self._min_score), scores(evidence, MATCHING.parameters(evidence))

    async def _view(self, catalog: Catalog, tenant: TenantId) -> _View:
        """What the tenant sees. Documents take part once a version of theirs can answer."""
        visible = [d for d in catalog.visible_to(tenant) if d.current is not None and d.current.id in self._features]
        versions = tuple(d.current.id for d in visible if d.current is not None)
        features = [self._features[version] for version in versions]
        # Whatever is learnt from here on puts other indexes in the place of these: one that is out of date is not kept.
        indexes = self._indexes
        known = indexes.get(tenant)
        if known is None or known.versions != versions:
            async with self._building:
                known = indexes[tenant] = _View(await asyncio.to_thread(Index, visible, features), versions)
        return known

    async def _complete(self, versions: tuple[VersionId, ...]) -> None:
        """Embed what was learnt while the embedding model was away: until then all of a tenant's routing is lexical."""
        for version_id in versions:
            before = self._features.get(version_id)
            if before is None or before.vectors is not None or (vectors := await self._embed(before.texts)) is None:
                continue
            with suppress(StoreUnavailable):  # a question does not fail for it; it is embedded again after a restart
                await self._store.set_vectors(version_id, vectors.astype(np.float16).tobytes(), self._embedder_name)
            if self._features.get(version_id) is before:
                self._put(version_id, features(before.texts, before.identifiers, vectors))

    async def _embed(self, texts: tuple[str, ...]) -> NDArray[np.float32] | None:
        if self._embedder is None:
            return None
        try:
            vectors = await self._embedder.embed(texts)
        except (KvshelfError, RuntimeError) as error:
            self.problem = f"{error}: routing is lexical only"
            log.warning("embedding_failed", error=str(error), consequence="routing is lexical only")
            return None
        self.problem = None
        return vectors

    @property
    def _embedder_name(self) -> str:
        return self._embedder.name if self._embedder is not None else ""


def _shortened(question: str) -> str:
    half = QUESTION_CHARACTERS // 2
    return question if len(question) <= QUESTION_CHARACTERS else f"{question[:half]} {question[-half:]}"


def _leaders(documents: tuple[Document, ...], scores: Scores) -> list[tuple[Document, float]]:
    """The best few, each with its share of their scores."""
    best = sorted(range(len(documents)), key=lambda number: -float(scores[number]))[:LEADERS]
    total = sum(float(scores[number]) for number in best)
    return [(documents[number], float(scores[number]) / total) for number in best if scores[number] > 0]
