"""What speaks for each document when a question names none: how well its words and its meaning fit, each 0 to 1.

One row a kind of evidence, one column a document. The lexical rows come first and may stand alone: that is all there is
without an embedding model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Evidence = NDArray[np.float32]
"""Shape (kinds, documents), each 0 to 1; the kinds are those of `KINDS`, or the first `LEXICAL_KINDS` of them."""
Vectors = NDArray[np.float32]

KINDS = (
    "words of a passage",
    "words of the whole",
    "words of the opening",
    "meaning of a passage",
    "meaning of the whole",
    "meaning of the opening",
)
LEXICAL_KINDS = 3
OPENING = 3
"""A document's opening are this many of its texts: what it is called and said to be about, and how it begins."""


class Quantised(msgspec.Struct, frozen=True):
    """Vectors as bytes: `rows` (texts, dimensions) times `scales` (texts,). A cosine is off by 0.003 at most; no document of the
    project's labelled sets changes its place by it."""

    rows: NDArray[np.int8]
    scales: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)


def quantised(vectors: NDArray[np.floating[Any]]) -> Quantised:
    scales = np.maximum(np.abs(vectors).max(axis=1).astype(np.float32) / 127, np.float32(1e-9))
    return Quantised(np.round(vectors / scales[:, None]).astype(np.int8), scales)


def dense_evidence(question: Vectors, texts: Sequence[Quantised], means: NDArray[np.float32]) -> Evidence:
    """Cosines with each document's best text, with its mean vector (`means`), and with the best text of its opening; negative ones as 0.

    `question` (dimensions,), `means` (documents,) and each of `texts` belong to vectors of length 1.
    """
    counts = [len(of_document) for of_document in texts]
    starts = np.cumsum([0, *counts[:-1]])
    rows = np.concatenate([of_document.rows for of_document in texts]).astype(np.float32)
    cosines = (rows @ question) * np.concatenate([of_document.scales for of_document in texts])
    last = starts + np.array(counts) - 1
    openings = np.max([cosines[np.minimum(starts + number, last)] for number in range(OPENING)], axis=0)
    evidence: Evidence = np.stack([np.maximum.reduceat(cosines, starts), means, openings]).astype(np.float32)
    return np.maximum(evidence, np.float32(0))


def mean_vector(vectors: NDArray[np.floating[Any]]) -> Vectors:
    """What a document is about as a whole: the mean of its texts' vectors, of length 1 (0 where they cancel out)."""
    total = vectors.sum(axis=0, dtype=np.float32)
    mean: Vectors = total / np.maximum(np.linalg.norm(total), np.float32(1e-9))
    return mean
