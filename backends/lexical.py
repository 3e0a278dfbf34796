"""The lexical side of routing: BM25 over the texts that stand for the documents and over whole documents, by the library bm25s.

An index is immutable and made for one tenant's view of the catalog, so that no word of another's documents counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from router.matching import Scores

_WORD = re.compile(r"[^\W_]+(?:[.'-][^\W_]+)*")
_VERSION = re.compile(r"v(\d+)")
ENGLISH = (
    "a about all also am an and any are as at be because been being but by can could did do does each else for from had has have he "
    "her his how i if in into is it its just may me might must my no not of on or other our shall she should so some such than that "
    "the their them then there these they this to too us very was we were what when where which while who whom why will with would "
    "you your"
)
STOP_WORDS = frozenset(ENGLISH.split())


class LexicalIndex:
    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        """`texts`: for each document the texts that stand for it, at least one."""
        words = [[_words(text) for text in document] for document in texts]
        self._starts: NDArray[np.intp] = np.cumsum([0, *map(len, words)][:-1]) if words else np.zeros(0, dtype=np.intp)
        self._texts = _Bm25([text for document in words for text in document])
        self._wholes = _Bm25([[word for text in document for word in text] for document in words])

    def scores(self, question: str) -> Scores:
        """Each document's BM25, of its best text and as a whole, the mean of both: 0 to 1."""
        words = _words(question)
        if not len(self._starts):
            return np.zeros(0, dtype=np.float32)
        best = np.maximum.reduceat(self._texts.shares(words), self._starts)
        return ((best + self._wholes.shares(words)) / 2).astype(np.float32)


class _Bm25:
    def __init__(self, texts: Sequence[list[str]]) -> None:
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
        assert index is not None  # noqa: S101 - the caller's condition, for the type checker
        data, pointers = index.scores["data"], index.scores["indptr"]
        total = 0.0
        for word in words:
            number = index.vocab_dict[word]
            column = data[pointers[number] : pointers[number + 1]]
            total += float(column.max()) if len(column) else 0.0
        return total or 1.0


def _words(text: str) -> list[str]:
    """Words and numbers in lower case without English stop words, crudely stemmed by cutting a plural's s.

    What is joined by hyphens, points or apostrophes counts whole and in its parts, and v2 as 2: "GPL v2" is GPL-2.
    """
    found = []
    for match in _WORD.finditer(text.lower()):
        parts = re.split(r"[.'-]", match[0])
        for word in (match[0], *parts) if len(parts) > 1 else parts:
            version = _VERSION.fullmatch(word)
            plain = version[1] if version else word
            if plain not in STOP_WORDS:
                found.append(plain[:-1] if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss") else plain)
    return found
