"""Finds the document a question is about, among those that whoever asks it may see.

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

from backends.base import Embedder, Store, Vectors
from backends.batching import EmbedderOverloaded
from backends.words import content_words
from gateway.shelf.index import Index, embedded, features
from gateway.shelf.matchings import Matchings
from gateway.shelf.views import Views
from observability.telemetry import EVIDENCE, OUTCOME, Telemetry
from router.catalog import Catalog
from router.conversation import continued, shortened
from router.descriptors import routing_texts
from router.documents import Descriptor, Document, DocumentId, TenantId, VersionId
from router.errors import KvshelfError, StoreUnavailable
from router.evaluation import Labelled
from router.fitting import Example
from router.matching import Ambiguous, Decision, Matching, NoMatch, Route, Thresholds, decide, scores
from router.viewers import Viewer

log = structlog.get_logger("classifier")


LEADERS = 3
TURNS = 4
"""So many of a conversation's last questions say which document it is about."""
QUESTION_CHARACTERS = 4000
"""Of a longer one the beginning and the end are read."""
QUESTIONS_KEPT = 1000

Leading = Callable[[list[tuple[Document, float]]], None]


class Classifier:
    def __init__(
        self,
        store: Store,
        embedder: Embedder | None,
        matchings: Matchings,
        telemetry: Telemetry,
        thresholds: Thresholds,
        *,
        problem: str | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._matchings = matchings
        self._telemetry = telemetry
        self._thresholds = thresholds
        self._views = Views()
        self._one_a_turn = asyncio.Lock()
        """A batch's questions are embedded at the same moment: one is matched each turn of the event loop, others have the rest."""
        self._questions: dict[tuple[TenantId, str], Vectors] = {}
        """The last ones' vectors, by the tenant that asked: how long an answer takes tells nobody what others asked."""
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

    async def find(self, catalog: Catalog, viewer: Viewer, turns: Sequence[str], leading: Leading = lambda _: None) -> Decision:
        """What to do with a question that names no document. `turns`: what the user said so far, the question last.

        `leading` is told which documents lead, each with how likely it is the one: by words alone while the question is being
        embedded, and again where the question then goes to none of them.
        """
        started = time.perf_counter()
        turns = [shortened(turn, QUESTION_CHARACTERS) for turn in turns[-TURNS:]]
        decision: Decision = NoMatch(())
        asked: list[Vectors] | None = None
        index = await self._views.of(catalog, viewer)
        if len(index):
            matching = await self._matchings.get(viewer.tenant)
            leading(_leaders(index, self._decide(index, turns[-1], None, matching)))
            index, asked = await self._asked(index, catalog, viewer, turns)
            async with self._one_a_turn:
                await asyncio.sleep(0)
            about: Document | None = None
            for number, turn in enumerate(turns):
                alone = self._decide(index, turn, asked[number] if asked is not None else None, matching)
                decision = continued(alone, about, self._thresholds)
                if isinstance(decision, Route):
                    about = _document(index, decision.document)
            if isinstance(decision, Ambiguous):
                leading(_leaders(index, decision))
        self._telemetry.routing_time.record(time.perf_counter() - started)
        by = "words" if asked is None else "all"
        self._telemetry.routes.add(1, {OUTCOME: str(type(decision).__struct_config__.tag), EVIDENCE: by})
        return decision

    async def volume(self, catalog: Catalog, viewer: Viewer, document: Document, turns: Sequence[str]) -> Document:
        """The volume of the document that a conversation's last question is about: the best one, however little it leads.

        Each question counts half as much as the one after it. Ties go to the volume that comes first in the text.
        """
        index = await self._views.of_volumes(catalog, document)
        if len(index) < 2:
            return (*index.documents, *catalog.answering(document))[0]
        turns = [shortened(turn, QUESTION_CHARACTERS) for turn in turns[-TURNS:]]
        asked = await self._embed_turns(viewer.tenant, turns)
        matching = await self._matchings.get(viewer.tenant)
        total = np.zeros(len(index), dtype=np.float32)
        for number, turn in enumerate(turns):
            total /= 2
            evidence = index.evidence(index.lexical(content_words(turn)), asked[number] if asked is not None else None, matching)
            total += scores(evidence, matching.parameters(evidence))
            if (named := index.named(turn)) is not None:
                total[named] += 1
        return index.documents[int(np.argmax(total))]

    async def documents(self, catalog: Catalog, viewer: Viewer) -> tuple[Document, ...]:
        """Those that a question of the viewer's may find."""
        return (await self._views.of(catalog, viewer)).documents

    async def examples(
        self, catalog: Catalog, viewer: Viewer, labelled: Sequence[Labelled]
    ) -> tuple[tuple[Document, ...], list[Example]]:
        """What the viewer's documents are, and what speaks for each of them by these questions."""
        questions = [shortened(one.question, QUESTION_CHARACTERS) for one in labelled]
        asked = await self._embed(tuple(questions))
        index = await self._completed(await self._views.of(catalog, viewer), catalog, viewer, asked)
        matching = await self._matchings.get(viewer.tenant)
        places = {document.id: place for place, document in enumerate(index.documents)}

        def told() -> list[Example]:
            found = []
            for number, one in enumerate(labelled):
                words = content_words(questions[number])
                evidence = index.evidence(index.lexical(words), asked[number] if asked is not None else None, matching)
                found.append(Example(evidence, len(words), places.get(DocumentId(one.document or ""))))
            return found

        return index.documents, await asyncio.to_thread(told)  # thousands of them take seconds

    def _decide(self, index: Index, question: str, asked: Vectors | None, matching: Matching) -> Decision:
        words = content_words(question)
        evidence = index.evidence(index.lexical(words), asked, matching)
        return decide(index.documents, evidence, len(words), matching, self._thresholds, named=index.named(question))

    async def _asked(
        self, index: Index, catalog: Catalog, viewer: Viewer, turns: Sequence[str]
    ) -> tuple[Index, list[Vectors] | None]:
        """The turns' vectors (None where they can't be had), and the index: a new one where it lacked vectors."""
        asked = await self._embed_turns(viewer.tenant, turns)
        return await self._completed(index, catalog, viewer, asked), asked

    async def _completed(self, index: Index, catalog: Catalog, viewer: Viewer, asked: object | None) -> Index:
        """A new index where this one lacks vectors although the embedding model is there."""
        if asked is None or index.is_embedded:
            return index
        answering = (one for document in index.documents for one in catalog.answering(document))
        await self._complete([one.current.id for one in answering if one.current is not None])
        return await self._views.of(catalog, viewer)

    async def _complete(self, versions: Sequence[VersionId]) -> None:
        """Embed what was learnt while the embedding model was away: until then all of its viewers' routing is lexical."""
        for version_id in versions:
            before = self._views.get(version_id)
            if before is None or before.vectors is not None or (vectors := await self._embed(before.texts)) is None:
                continue
            with suppress(StoreUnavailable):  # a question does not fail for it; it is embedded again after a restart
                await self._store.set_vectors(version_id, vectors.astype(np.float16).tobytes(), self._embedder_name)
            if self._views.get(version_id) is before:
                self._views.put(version_id, embedded(before, vectors))

    async def _embed_turns(self, tenant: TenantId, turns: Sequence[str]) -> list[Vectors] | None:
        """Each turn's vector, shape (dimensions,); None where one can't be had.

        A conversation's earlier questions were embedded when they were asked. Each is embedded as a call of its own: several
        texts in one are a document's, which questions go before (`backends/batching.py`).
        """
        known = {turn: vector for turn in turns if (vector := self._questions.get((tenant, turn))) is not None}
        lacking = [turn for turn in dict.fromkeys(turns) if turn not in known]
        for turn, vectors in zip(lacking, await asyncio.gather(*(self._embed((turn,)) for turn in lacking)), strict=True):
            if vectors is None:
                return None
            known[turn] = self._questions[tenant, turn] = vectors[0]
        while len(self._questions) > QUESTIONS_KEPT:
            del self._questions[next(iter(self._questions))]
        return [known[turn] for turn in turns]

    async def _embed(self, texts: tuple[str, ...]) -> Vectors | None:
        if self._embedder is None:
            return None
        try:
            vectors = await self._embedder.embed(texts)
        except EmbedderOverloaded:
            return None  # for this question; the next one may be embedded again, and the counter of routes tells of it
        except (KvshelfError, RuntimeError) as error:
            # A library's own words may quote what it was to embed.
            words = str(error) if isinstance(error, KvshelfError) else f"The embedding model failed ({type(error).__name__})"
            if self.problem is None:
                log.warning("embedding_failed", error=words, exc_info=error, consequence="routing is lexical only")
            self.problem = f"{words}: routing is lexical only"
            return None
        self.problem = None
        return vectors

    @property
    def _embedder_name(self) -> str:
        return self._embedder.name if self._embedder is not None else ""


def _document(index: Index, document_id: DocumentId) -> Document:
    return next(document for document in index.documents if document.id == document_id)


def _leaders(index: Index, decision: Decision) -> list[tuple[Document, float]]:
    """The likeliest few, each with how likely it is."""
    return [(_document(index, match.document), match.score) for match in decision.candidates[:LEADERS] if match.score > 0]
