"""Finds the document a question is about, among those that its tenant may see.

Keeps what stands for each version (texts and vectors) and one index a tenant's view, rebuilt when the view changes
and never shared between tenants. Scoring and deciding are `router/matching.py`'s; without an embedding model, or
while it fails, matching is lexical alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from backends.base import Embedder, Store
from gateway.shelf.index import Features, Index
from observability.telemetry import OUTCOME, Telemetry
from router.descriptors import routing_texts
from router.documents import Catalog, Descriptor, Document, TenantId, VersionId
from router.errors import KvshelfError, StoreUnavailable
from router.matching import Ambiguous, Decision, NoMatch, Scores, decide

log = structlog.get_logger("classifier")


LEADERS = 3

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
        self._features[version_id] = Features(texts, vectors)
        self._indexes = {}

    async def recall(self, version_id: VersionId, descriptor: Descriptor) -> None:
        """Take a stored version in, with its stored vectors where they fit the embedding model and the texts."""
        content = await self._store.content(version_id)
        texts = routing_texts(descriptor, content.text)
        vectors = np.frombuffer(content.vectors, dtype=np.float16).astype(np.float32)
        if self._embedder is not None and (
            content.embedder != self._embedder_name or not vectors.size or vectors.size % len(texts)
        ):
            await self.learn(version_id, descriptor, content.text)
            return
        self._features[version_id] = Features(texts, vectors.reshape(len(texts), -1) if self._embedder else None)
        self._indexes = {}

    def forget(self, version_id: VersionId) -> None:
        self._features.pop(version_id, None)
        self._indexes = {}

    async def find(self, catalog: Catalog, tenant: TenantId, question: str, leading: Leading = lambda _: None) -> Decision:
        """What to do with a question that names no document.

        `leading` is told which documents lead, each with its share of their scores: by words alone while the question
        is being embedded, and again where the question then goes to none of them.
        """
        started = time.perf_counter()
        view = await self._view(catalog, tenant)
        index = view.index
        decision: Decision = NoMatch(())
        if len(index):
            lexical = index.lexical_scores(question)
            leading(_leaders(index.documents, lexical))
            asked = await self._embed((question,))
            if asked is not None and not index.is_embedded:
                await self._complete(view.versions)
                index = (await self._view(catalog, tenant)).index
                lexical = index.lexical_scores(question)
            scores = index.scores(lexical, asked)
            decision = decide(index.documents, scores, min_score=self._min_score, margin=self._margin)
            if isinstance(decision, Ambiguous):
                leading(_leaders(index.documents, scores))
        self._telemetry.routing_time.record(time.perf_counter() - started)
        self._telemetry.routes.add(1, {OUTCOME: str(type(decision).__struct_config__.tag)})
        return decision

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
                self._features[version_id] = Features(before.texts, vectors)
                self._indexes = {}

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


def _leaders(documents: tuple[Document, ...], scores: Scores) -> list[tuple[Document, float]]:
    """The best few, each with its share of their scores."""
    best = sorted(range(len(documents)), key=lambda number: -float(scores[number]))[:LEADERS]
    total = sum(float(scores[number]) for number in best)
    return [(documents[number], float(scores[number]) / total) for number in best if scores[number] > 0]
