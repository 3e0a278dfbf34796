"""One view of the catalog as it is matched: the texts that stand for each document, in words and as vectors. Immutable.

What a question scores against it is computed here; what follows from the scores is `router/matching.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.base import Vectors
from backends.lexical import LexicalIndex
from router.documents import Document
from router.matching import Scores, best_scores, fuse, mean_vectors


class Features(msgspec.Struct, frozen=True):
    """What stands for one document: its texts, and a row of `vectors` for each; None where they are not embedded."""

    texts: tuple[str, ...]
    vectors: Vectors | None


class Index:
    def __init__(self, documents: Sequence[Document], features: Sequence[Features]) -> None:
        """`features`: one for each document."""
        self.documents = tuple(documents)
        counts = [len(feature.texts) for feature in features]
        vectors = [feature.vectors for feature in features if feature.vectors is not None]
        self._starts: NDArray[np.intp] = np.cumsum([0, *counts][:-1]) if counts else np.zeros(0, dtype=np.intp)
        self._vectors = np.concatenate(vectors) if vectors and len(vectors) == len(features) else None
        self._means = mean_vectors(self._vectors, self._starts) if self._vectors is not None else None
        # Whoever knows a document's id may well ask by it.
        texts = [(f"{d.id} {about}", *more) for d, (about, *more) in zip(documents, (f.texts for f in features), strict=True)]
        self._lexical = LexicalIndex(texts)

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def is_embedded(self) -> bool:
        return self._vectors is not None

    def lexical_scores(self, question: str) -> Scores:
        """By words alone, 0 to 1, one for each document."""
        return self._lexical.scores(question)

    def scores(self, lexical: Scores, asked: Vectors | None) -> Scores:
        """All that is known, 0 to 1. `asked`: the question's vector, shape (1, dimensions), where there is one."""
        if asked is None or self._vectors is None or self._means is None:
            return lexical
        return fuse(best_scores(asked[0], self._vectors, self._starts), np.maximum(self._means @ asked[0], 0.0), lexical)
