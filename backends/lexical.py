"""The lexical side of routing: BM25 over the texts that stand for the documents and over whole documents, by the library bm25s.

An index is immutable and made for one tenant's view of the catalog, so that no word of another's documents counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from router.evidence import OPENING, Evidence


class LexicalIndex:
    def __init__(self, words: Sequence[Sequence[Sequence[str]]]) -> None:
        """`words`: for each document the content words of the texts that stand for it, at least one, the most telling first."""
        self._starts: NDArray[np.intp] = np.cumsum([0, *map(len, words)][:-1]) if words else np.zeros(0, dtype=np.intp)
        self._texts = _Bm25([text for document in words for text in document])
        self._wholes = _Bm25([[word for text in document for word in text] for document in words])
        self._openings = _Bm25([[word for text in document[:OPENING] for word in text] for document in words])

    def evidence(self, words: Sequence[str]) -> Evidence:
        """Each document's BM25 for a question's content words: of its best text, as a whole, and of its opening, 0 to 1 each."""
        if not len(self._starts):
            return np.zeros((3, 0), dtype=np.float32)
        best = np.maximum.reduceat(self._texts.shares(words), self._starts)
        return np.stack([best, self._wholes.shares(words), self._openings.shares(words)])


class _Bm25:
    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._count = len(texts)
        self._index: bm25s.BM25 | None = None
        if any(texts):
            self._index = bm25s.BM25(method="lucene")
            self._index.index(texts, show_progress=False)

    def shares(self, words: Sequence[str]) -> NDArray[np.float32]:
        """Each text's BM25 as a share of what a text made of these words alone could score: 0 to 1."""
        known = [word for word in words if self._index is not None and word in self._index.vocab_dict]
        if self._index is None or not known:
            return np.zeros(self._count, dtype=np.float32)
        scores: NDArray[np.float32] = self._index.get_scores(known)
        shares: NDArray[np.float32] = scores / np.float32(self._ceiling(known) * len(words) / len(known))
        return np.minimum(shares, np.float32(1))

    def _ceiling(self, words: Sequence[str]) -> float:
        """The sum of each word's highest score in any text: what the best imaginable text would get."""
        index = self._index
        assert index is not None  # noqa: S101 - the caller's condition, for the type checker  # nosec B101
        data, pointers = index.scores["data"], index.scores["indptr"]
        total = 0.0
        for word in words:
            number = index.vocab_dict[word]
            column = data[pointers[number] : pointers[number + 1]]
            total += float(column.max()) if len(column) else 0.0
        return total or 1.0
