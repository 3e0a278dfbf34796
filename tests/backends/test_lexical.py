"""BM25 over documents: words that they share with the question, as a share of the best that could be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backends.lexical import LexicalIndex
from backends.words import content_words

LEASE = ["Apartment lease. Rent and keys.", "The tenant pays the rent on the first of the month."]
LAB = ["Laboratory protocol.", "Centrifuge the samples for ten minutes.", "Wear gloves."]
POLICY = ["Security policy.", "Passwords have at least twelve characters."]

WORDS = st.lists(st.sampled_from(["rent", "keys", "tenant", "glove", "lab", "the", "a", "zebra"]), max_size=6).map(" ".join)


def index_of(texts: list[list[str]]) -> LexicalIndex:
    return LexicalIndex([[content_words(text) for text in document] for document in texts])


def told(index: LexicalIndex, question: str, kind: int = 0) -> NDArray[np.float32]:
    """Of a passage, of the whole, or of the opening: one score a document."""
    return index.evidence(content_words(question))[kind]


@pytest.fixture(scope="module")
def index() -> LexicalIndex:
    return index_of([LEASE, LAB, POLICY])


@pytest.mark.parametrize(
    ("question", "best"), [("When is the rent due?", 0), ("How long do I centrifuge?", 1), ("How many characters?", 2)]
)
def test_the_document_with_the_questions_words_is_best(index: LexicalIndex, question: str, best: int) -> None:
    scores = told(index, question)
    assert scores.argmax() == best
    assert np.count_nonzero(scores) == 1
    assert scores.shape == (3,)
    assert scores.dtype == np.float32


def test_a_documents_last_text_counts_as_much_as_its_first(index: LexicalIndex) -> None:
    assert told(index, "gloves")[1] == pytest.approx(1.0)


@pytest.mark.parametrize("question", ["zebra", "the", "", "???"])
def test_a_question_without_known_words_scores_zero_everywhere(index: LexicalIndex, question: str) -> None:
    assert told(index, question).tolist() == [0.0, 0.0, 0.0]


def test_unknown_words_lower_the_score(index: LexicalIndex) -> None:
    assert 0 < told(index, "rent zebra")[0] < told(index, "rent")[0] <= 1


def test_case_and_plural_make_no_difference(index: LexicalIndex) -> None:
    assert told(index, "RENTS").tolist() == told(index, "rent").tolist()
    assert told(index, "sample")[1] == pytest.approx(told(index, "Samples")[1])
    assert told(index, "sample")[1] > 0


def test_a_rare_word_tells_more_than_a_common_one() -> None:
    common = index_of([["contract rent"], ["contract keys"], ["contract lease"]])
    scores = told(common, "contract keys")
    assert scores[1] > 2 * scores[0]


@pytest.mark.parametrize("question", ["GPL v2", "gpl-2", "What does version 2 of the GPL say?"])
def test_a_version_is_told_from_another_however_it_is_written(question: str) -> None:
    scores = told(index_of([["GPL-1"], ["GPL-2"], ["GPL-3"]]), question)
    assert scores.argmax() == 1
    assert scores[1] > max(scores[0], scores[2])


def test_words_that_are_spread_over_a_document_count_too() -> None:
    spread, dense = ["rent", "keys", "gloves"], ["rent", "rent", "rent"]
    index = index_of([dense, spread, ["tenant"]])
    assert told(index, "rent keys gloves", 1)[1] > 2 * told(index, "rent keys gloves", 1)[0]


def test_the_opening_are_the_first_three_texts() -> None:
    index = index_of([["rent", "x", "y", "keys"], ["x", "y", "keys", "rent"]])
    assert told(index, "keys", 2).tolist() == [0.0, pytest.approx(1.0)]


@settings(max_examples=40)
@given(documents=st.lists(st.lists(WORDS, min_size=1, max_size=3), max_size=4), question=WORDS)
def test_every_document_has_one_score_between_zero_and_one(documents: list[list[str]], question: str) -> None:
    scores = told(index_of(documents), question)
    assert scores.shape == (len(documents),)
    assert np.all((scores >= 0) & (scores <= 1))
    for document, score in zip(documents, scores, strict=True):
        shared = set(" ".join(document).split()) & set(question.split()) - {"the", "a"}
        assert bool(score) is bool(shared)


@pytest.mark.parametrize("texts", [[], [["the"]], [[""], ["of the"]]])
def test_a_view_without_words_scores_zero(texts: list[list[str]]) -> None:
    assert told(index_of(texts), "rent").tolist() == [0.0] * len(texts)
