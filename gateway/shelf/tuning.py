"""A tenant's own way to weigh evidence: fitted to its labelled questions, kept in the store, used by the classifier.

What is kept must be better on questions that took no part in fitting it; otherwise what was there stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from backends.records import AuditEntry
from gateway.shelf.classifier import Classifier
from gateway.shelf.matchings import Matchings
from router.catalog import Catalog
from router.defaults import MATCHING
from router.documents import Document, TenantId
from router.errors import InvalidRequest
from router.evaluation import Figures, Judged, Labelled, evaluate, judge
from router.fitting import Example, fit_matching, held_out
from router.matching import Matching, Thresholds, decide
from router.viewers import Viewer

MIN_KNOWN = 20
"""Questions with a document; fewer say nothing about those to come."""
MAX_QUESTIONS = 5000
MAX_PAIRS = 5_000_000
"""Of a question and a document: what speaks for each is held in memory, 24 bytes."""


class Fitted(msgspec.Struct, frozen=True):
    """`before` and `after` are of questions that took no part: each fifth with what was fitted to the others."""

    questions: int
    unanswerable: int
    before: Figures
    after: Figures
    kept: bool


class Tuning:
    def __init__(self, classifier: Classifier, matchings: Matchings, thresholds: Thresholds) -> None:
        self._classifier = classifier
        self._matchings = matchings
        self._thresholds = thresholds

    async def fit(self, catalog: Catalog, viewer: Viewer, labelled: Sequence[Labelled], *audit: AuditEntry) -> Fitted:
        """Fit, judge, and keep what is better, with `audit`. Raises InvalidRequest for questions that can't be fitted to."""
        before = await self._matchings.get(viewer.tenant)
        check(labelled, await self._classifier.documents(catalog, viewer))
        documents, examples = await self._classifier.examples(catalog, viewer, labelled)
        matching, found = await asyncio.to_thread(fitted, documents, labelled, examples, before, self._thresholds)
        if found.kept:
            await self._matchings.put(viewer.tenant, matching, *audit)
        return found

    async def reset(self, tenant: TenantId, *audit: AuditEntry) -> bool:
        """Weigh as kvshelf ships it again; whether anything else was used, as far as this gateway had heard."""
        was_fitted = await self._matchings.get(tenant) != MATCHING
        await self._matchings.put(tenant, None, *audit)
        return was_fitted


def fitted(
    documents: Sequence[Document],
    labelled: Sequence[Labelled],
    examples: Sequence[Example],
    before: Matching,
    thresholds: Thresholds,
) -> tuple[Matching, Fitted]:
    """What is fitted to all of the questions, and what that is worth beside what is used now. Pure; takes seconds for thousands.

    It is fitted around what is shipped: around what was fitted to the same questions before, they would count twice.
    """

    def figures(matchings: Sequence[Matching]) -> tuple[Figures, float]:
        judged: list[Judged] = []
        for one, example, matching in zip(labelled, examples, matchings, strict=True):
            decision = decide(documents, example.evidence, example.words, matching, thresholds)
            judged.append(judge(one, decision))
        report = evaluate(judged)
        squares = sum((each.probability - each.is_first) ** 2 for each in judged) / len(judged)
        return Figures(*(getattr(report, name) for name in Figures.__struct_fields__)), squares

    was, squares_before = figures([before] * len(examples))
    now, squares_after = figures(held_out(examples, MATCHING))
    known = sum(one.document is not None for one in labelled)
    kept = now.top1 >= was.top1 and squares_after < squares_before
    return fit_matching(examples, MATCHING), Fitted(len(labelled), len(labelled) - known, was, now, kept)


def check(labelled: Sequence[Labelled], documents: Sequence[Document]) -> None:
    """Raises InvalidRequest where these questions can't be fitted to these documents."""
    unknown = sorted({one.document for one in labelled if one.document is not None} - {document.id for document in documents})
    if unknown:
        raise InvalidRequest(
            f"`questions` name documents that are not there or not read yet: {', '.join(unknown[:5])}"
            f"{' and others' if len(unknown) > 5 else ''}. Add them, or take their questions out.",
            param="questions",
        )
    most = MAX_PAIRS // max(len(documents), 1)
    if len(labelled) > most:
        raise InvalidRequest(
            f"{len(labelled)} questions about {len(documents)} documents are too many to fit routing to; give at most {most}.",
            param="questions",
        )
    known = sum(one.document is not None for one in labelled)
    if known < MIN_KNOWN or len({one.document for one in labelled}) < 2:
        raise InvalidRequest(
            f"{known} questions with a document are too few to fit routing to; give at least {MIN_KNOWN}, about two documents or more.",
            param="questions",
        )
