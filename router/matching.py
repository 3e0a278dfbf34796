"""Which document a question is about: scores in, a decision out.

The decision is *route*, *ambiguous* or *no match*; a wrong document answered confidently is worse than the last
two. Scores come from `backends/embedding.py` (dense) and `backends/lexical.py`; visibility was settled before.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from router.documents import Document, DocumentId

BEST_WEIGHT, MEAN_WEIGHT, LEXICAL_WEIGHT = 0.30, 0.34, 0.36
"""Fitted on the project's labelled sets (softmax regression over the documents), each left out in turn. Licences and manual pages
gain by it over a best text and words alone (0.7 and 0.3); the seven samples lose one question in a hundred."""
CANDIDATES = 5

Scores = NDArray[np.float32]
"""One score a document, shape (documents,), each 0 to 1."""


class Match(msgspec.Struct, frozen=True):
    document: DocumentId
    title: str
    score: float


class Route(msgspec.Struct, frozen=True, tag="route"):
    """The question goes to `document`."""

    document: DocumentId
    score: float
    candidates: tuple[Match, ...]


class Ambiguous(msgspec.Struct, frozen=True, tag="ambiguous"):
    """Several documents fit about equally."""

    candidates: tuple[Match, ...]


class NoMatch(msgspec.Struct, frozen=True, tag="no_match"):
    """No document fits well enough; `candidates` are the least bad."""

    candidates: tuple[Match, ...]


Decision = Route | Ambiguous | NoMatch


def best_scores(query: NDArray[np.float32], vectors: NDArray[np.float32], starts: NDArray[np.intp]) -> Scores:
    """The best cosine among each document's texts, negative ones as 0.

    `query` (dimensions,) and `vectors` (texts, dimensions) have rows of length 1; `starts` (documents,) says where
    each document's texts begin. Every document has at least one.
    """
    return np.maximum(np.maximum.reduceat(vectors @ query, starts), 0.0).astype(np.float32)


def mean_vectors(vectors: NDArray[np.float32], starts: NDArray[np.intp]) -> NDArray[np.float32]:
    """What each document is about as a whole: the mean of its texts' vectors, of length 1; shape (documents, dimensions)."""
    sums = np.add.reduceat(vectors, starts, axis=0)
    means: NDArray[np.float32] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.float32(1e-9))
    return means


def fuse(best: Scores, mean: Scores, lexical: Scores) -> Scores:
    """A weighted sum of the best text's cosine, the whole document's, and the words' share."""
    scores: Scores = BEST_WEIGHT * best + MEAN_WEIGHT * mean + LEXICAL_WEIGHT * lexical
    return scores


def decide(documents: Sequence[Document], scores: Scores, *, min_score: float, margin: float) -> Decision:
    """What to do with a question, given one score a document. Ties go by id, so that the same input decides alike."""
    best = sorted(range(len(documents)), key=lambda n: (-float(scores[n]), documents[n].id))[:CANDIDATES]
    candidates = tuple(Match(documents[n].id, documents[n].descriptor.title, round(float(scores[n]), 4)) for n in best)
    if not best or scores[best[0]] < min_score:
        return NoMatch(candidates)
    if len(best) > 1 and scores[best[0]] - scores[best[1]] < margin:
        return Ambiguous(candidates)
    return Route(candidates[0].document, candidates[0].score, candidates)
