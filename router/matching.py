"""Which document a question is about: evidence in, a decision out.

The decision is *route*, *ambiguous* or *no match*; a wrong document answered confidently is worse than the last
two. Evidence comes from `router/evidence.py` (dense) and `backends/lexical.py`; visibility was settled before.

1. A document's score is the weighted sum of its evidence.
2. The best score, its lead and the question's length give the probability that the first document is the right one, and
   that one of the first few is: two logistic regressions (`router/fitting.py`).
3. What the others have is the first one's probability, less by a softmax of the scores' distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from router.documents import Document, DocumentId
from router.evidence import LEXICAL_KINDS, Evidence

CANDIDATES = 5
OUTRIGHT = 0.97
"""The probability of a document that the question names."""
SUREST = 0.99
"""No likeness is surer than this."""
NOBODY = 0.1
"""The score that a document of another subject has: where there are few documents, the first one must lead this."""

Scores = NDArray[np.float32]
"""One score a document, shape (documents,), each 0 to 1."""


class Parameters(msgspec.Struct, frozen=True):
    """`weights`: one a kind of evidence, their absolute values' sum is 1. `sharpness`: of the softmax over scores.

    `first` and `few`: coefficients of `signs`, for the probabilities that the first document is right, and one of the candidates.
    """

    weights: tuple[float, ...]
    sharpness: float
    first: tuple[float, ...]
    few: tuple[float, ...]


class Matching(msgspec.Struct, frozen=True):
    """How evidence is weighed: all of it, and words alone, where there is no embedding model or it fails."""

    full: Parameters
    lexical: Parameters

    def parameters(self, evidence: Evidence) -> Parameters:
        return self.lexical if len(evidence) == LEXICAL_KINDS else self.full


class Thresholds(msgspec.Struct, frozen=True):
    """When a question goes to the first document: it has at least `min_score`, and leads the second by `margin`. 0 to 1 each."""

    min_score: float = 0.6
    margin: float = 0.1

    def allow(self, candidates: Sequence[Match]) -> bool:
        first, *others = candidates
        return first.score >= self.min_score and (not others or first.score - others[0].score >= self.margin)


class Match(msgspec.Struct, frozen=True):
    """`score`: the probability that it is this document, 0 to 1."""

    document: DocumentId
    title: str
    score: float


class Route(msgspec.Struct, frozen=True, tag="route"):
    """The question goes to `document`."""

    document: DocumentId
    score: float
    candidates: tuple[Match, ...]


class Ambiguous(msgspec.Struct, frozen=True, tag="ambiguous"):
    """One of these it is, but no single one is likely enough."""

    candidates: tuple[Match, ...]


class NoMatch(msgspec.Struct, frozen=True, tag="no_match"):
    """No document fits well enough; `candidates` are the least bad."""

    candidates: tuple[Match, ...]


Decision = Route | Ambiguous | NoMatch


def scores(evidence: Evidence, parameters: Parameters) -> Scores:
    return np.asarray(parameters.weights, dtype=np.float32) @ evidence


def signs(best: Sequence[float], words: int) -> NDArray[np.float64]:
    """What tells how sure the first document is, each of about the same spread, the last one 1: shape (5,).

    `best`: the highest scores, falling. `words`: the question's content words; a long question shares fewer of them with any text.
    """
    first, *others = best
    others = sorted((*others, *[NOBODY] * CANDIDATES), reverse=True)[:CANDIDATES]
    lead, ahead = max(first - others[0], 0.0), first - sum(others) / CANDIDATES
    return np.array([(first - 0.4) / 0.15, lead**0.5 / 0.15, ahead / 0.1, np.log(words + 1) - 2, 1.0])


def decide(
    documents: Sequence[Document],
    evidence: Evidence,
    words: int,
    matching: Matching,
    thresholds: Thresholds,
    *,
    named: int | None = None,
) -> Decision:
    """What to do with a question of so many content words. Ties go by id, so that the same input decides alike.

    `named`: the place of the document that the question names outright.
    """
    if not documents:
        return NoMatch(())
    parameters = matching.parameters(evidence)
    found = scores(evidence, parameters)
    best = places_of_best(documents, found, CANDIDATES + 1)
    top = [float(found[number]) for number in best]
    told = signs(top, words)
    first, few = min(_probability(parameters.first, told), SUREST), _probability(parameters.few, told)
    likely = [
        (place, first * float(np.exp(parameters.sharpness * (score - top[0])))) for place, score in zip(best, top, strict=True)
    ]
    if named is not None:
        likely = [(named, OUTRIGHT), *((place, min(share, 1 - OUTRIGHT)) for place, share in likely if place != named)]
    candidates = tuple(
        Match(documents[place].id, documents[place].descriptor.title, round(share, 4)) for place, share in likely[:CANDIDATES]
    )
    if thresholds.allow(candidates):
        return Route(candidates[0].document, candidates[0].score, candidates)
    one_of_them = len(candidates) > 1 and max(candidates[0].score, few) >= thresholds.min_score
    return Ambiguous(candidates) if one_of_them else NoMatch(candidates)


def places_of_best(documents: Sequence[Document], found: Scores, count: int) -> list[int]:
    """The places of the documents with the highest scores, falling, equal ones by id."""
    count = min(count, len(found))
    least = np.partition(found, len(found) - count)[len(found) - count]
    return sorted(np.flatnonzero(found >= least).tolist(), key=lambda n: (-float(found[n]), documents[n].id))[:count]


def _probability(coefficients: Sequence[float], told: NDArray[np.float64]) -> float:
    return float(1 / (1 + np.exp(-(np.asarray(coefficients) @ told))))
