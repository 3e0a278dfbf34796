"""The lexical side of routing: BM25 over the texts that stand for the documents, by the library bm25s.

An index is immutable and made for one tenant's view of the catalog, so that no word of another's documents counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np

from router.matching import Scores


class LexicalIndex:
    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        """`texts`: for each document the texts that stand for it, at least one."""
        flat = [text for document in texts for text in document]
        self._starts = np.cumsum([0, *(len(document) for document in texts)][:-1]) if texts else np.zeros(0, dtype=np.intp)
        self._index: bm25s.BM25 | None = None
        tokens = _tokens(flat)
        if any(tokens):
            self._index = bm25s.BM25(method="lucene")
            self._index.index(tokens, show_progress=False)

    def scores(self, question: str) -> Scores:
        """Each document's best text's BM25, as a share of what a text made of the question alone could score: 0 to 1."""
        words = _tokens([question])[0]
        known = [word for word in words if self._index is not None and word in self._index.vocab_dict]
        if self._index is None or not known:
            return np.zeros(len(self._starts), dtype=np.float32)
        best = np.maximum.reduceat(self._index.get_scores(known), self._starts)
        return np.minimum(best / (self._ceiling(known) * len(words) / len(known)), 1.0).astype(np.float32)

    def _ceiling(self, words: Sequence[str]) -> float:
        """The sum of each word's highest score in any text: what the best imaginable text would get."""
        index = self._index
        assert index is not None  # noqa: S101 - the caller's condition, for the type checker
        data, pointers = index.scores["data"], index.scores["indptr"]
        total = 0.0
        for word in words:
            number = index.vocab_dict[word]
            column = data[pointers[number] : pointers[number + 1]]
            total += float(column.max()) if len(column) else 0.0
        return total or 1.0


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    """Words in lower case without English stop words, crudely stemmed by cutting a plural's s."""
    words: list[list[str]] = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return [
        [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in line] for line in words
    ]
