"""One view of the catalog as it is matched: the texts that stand for each document, in words and as vectors. Immutable.

What speaks for each document when a question comes is gathered here; what follows from it is `router/matching.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.base import Vectors
from backends.lexical import LexicalIndex
from backends.words import content_words
from router.descriptors import routing_texts
from router.documents import Descriptor, Document
from router.evidence import KINDS, LEXICAL_KINDS, Evidence, Quantised, dense_evidence, mean_vector, quantised
from router.matching import Matching
from router.naming import Names, Term, identifiers, name_terms

SHORTLIST = 128
"""So many documents are compared text by text: those that lead by their words and by what they are about as a whole. On manual pages
a quarter of the documents is enough to find the same first five as among all of them."""

_MEAN = KINDS.index("meaning of the whole")


class Features(msgspec.Struct, frozen=True):
    """What stands for one document: its texts, their content words, a row of `vectors` for each (None where they are not
    embedded), and the mean of these."""

    texts: tuple[str, ...]
    words: tuple[list[str], ...]
    identifiers: frozenset[Term]
    vectors: Quantised | None = None
    mean: Vectors | None = None


def features(descriptor: Descriptor, text: str, vectors: NDArray[np.floating[Any]] | None = None) -> Features:
    """`vectors`: those of `routing_texts(descriptor, text)`. Takes a while for a long text."""
    texts = routing_texts(descriptor, text)
    known = Features(texts, tuple(content_words(one) for one in texts), identifiers(text))
    return known if vectors is None else embedded(known, vectors)


def embedded(known: Features, vectors: NDArray[np.floating[Any]]) -> Features:
    return msgspec.structs.replace(known, vectors=quantised(vectors), mean=mean_vector(vectors))


def joined(parts: Sequence[Features]) -> Features:
    """What stands for a document in these volumes. The first one's title stands for its own."""
    texts, words = (tuple(chain.from_iterable(of_each)) for of_each in zip(*((one.texts, one.words) for one in parts), strict=True))
    known = Features(texts, words, frozenset().union(*(one.identifiers for one in parts)))
    vectors = [one.vectors for one in parts if one.vectors is not None]
    if len(vectors) < len(parts):
        return known
    rows, scales = np.concatenate([one.rows for one in vectors]), np.concatenate([one.scales for one in vectors])
    return msgspec.structs.replace(known, vectors=Quantised(rows, scales), mean=mean_vector(rows * scales[:, None]))


class Index:
    def __init__(self, documents: Sequence[Document], features: Sequence[Features]) -> None:
        """`features`: one for each document."""
        self.documents = tuple(documents)
        self._vectors = [feature.vectors for feature in features if feature.vectors is not None]
        means = [feature.mean for feature in features if feature.mean is not None]
        self._means = np.stack(means) if means and len(means) == len(features) else None
        # Whoever knows a document's id may well ask by it.
        words = [
            [content_words(document.id) + about, *more]
            for document, (about, *more) in zip(documents, (feature.words for feature in features), strict=True)
        ]
        self._lexical = LexicalIndex(words)
        names = [name_terms(document.id, document.descriptor.aliases) for document in documents]
        self._names = Names(names, [feature.identifiers for feature in features])

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def is_embedded(self) -> bool:
        return self._means is not None

    def named(self, question: str) -> int | None:
        """The place of the document that the question names outright."""
        return self._names.named(question)

    def lexical(self, words: Sequence[str]) -> Evidence:
        """What a question's content words tell."""
        return self._lexical.evidence(words)

    def evidence(self, lexical: Evidence, asked: Vectors | None, matching: Matching) -> Evidence:
        """All that is known. `asked`: the question's vector, shape (dimensions,), where there is one.

        Documents beyond the shortlist have no meaning of a passage or of the opening.
        """
        if asked is None or self._means is None:
            return lexical
        evidence = np.zeros((len(KINDS), len(self.documents)), dtype=np.float32)
        evidence[:LEXICAL_KINDS] = lexical
        evidence[_MEAN] = np.maximum(self._means @ asked, 0.0)
        shortlist: NDArray[np.intp] = np.arange(len(self.documents))
        if len(shortlist) > SHORTLIST:
            known = np.asarray(matching.full.weights, dtype=np.float32) @ evidence
            shortlist = np.argpartition(known, -SHORTLIST)[-SHORTLIST:]
        texts = [self._vectors[place] for place in shortlist]
        evidence[LEXICAL_KINDS:, shortlist] = dense_evidence(asked, texts, evidence[_MEAN, shortlist])
        return evidence
