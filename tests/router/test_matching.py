"""Scores into a decision: a route only where one document clearly leads."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.documents import Descriptor, Document, DocumentId, Owner
from router.matching import (
    BEST_WEIGHT,
    CANDIDATES,
    LEXICAL_WEIGHT,
    MEAN_WEIGHT,
    Ambiguous,
    Decision,
    Match,
    NoMatch,
    Route,
    best_scores,
    decide,
    fuse,
    mean_vectors,
)

SCORES = st.lists(st.floats(0, 1, width=32), max_size=9)


def documents(ids: str) -> list[Document]:
    return [Document(owner=Owner("acme"), id=DocumentId(id_), descriptor=Descriptor(title=id_.upper())) for id_ in ids]


def decided(scores: list[float], ids: str = "abcdefghi", *, min_score: float = 0.35, margin: float = 0.1) -> Decision:
    return decide(documents(ids[: len(scores)]), np.array(scores, dtype=np.float32), min_score=min_score, margin=margin)


def test_a_document_that_clearly_leads_gets_the_question() -> None:
    assert decided([0.2, 0.75]) == Route(
        DocumentId("b"), 0.75, (Match(DocumentId("b"), "B", 0.75), Match(DocumentId("a"), "A", 0.2))
    )


def test_a_single_document_needs_no_lead() -> None:
    assert isinstance(decided([0.35]), Route)


def test_documents_that_fit_about_equally_are_ambiguous() -> None:
    found = decided([0.6, 0.1, 0.65])
    assert isinstance(found, Ambiguous)
    assert [match.document for match in found.candidates] == ["c", "a", "b"]


def test_a_lead_of_just_the_margin_is_enough() -> None:
    assert isinstance(decided([0.75, 0.5], margin=0.25), Route)


def test_nothing_good_enough_is_no_match_with_the_least_bad() -> None:
    found = decided([0.3, 0.1], min_score=0.5)
    assert isinstance(found, NoMatch)
    assert [match.score for match in found.candidates] == [0.3, 0.1]


def test_an_empty_view_is_no_match() -> None:
    assert decided([]) == NoMatch(())


def test_ties_go_by_id() -> None:
    assert isinstance(tied := decided([0.5, 0.5, 0.5], "cab", margin=0.0), Route)
    assert tied.document == "a"


def test_at_most_five_candidates_are_named() -> None:
    assert len(decided([0.5] * 9).candidates) == CANDIDATES == 5


@settings(max_examples=100, deadline=None)
@given(scores=SCORES, min_score=st.floats(0, 1, width=32), margin=st.floats(0, 0.5, width=32), rng=st.randoms())
def test_the_decision_depends_on_the_scores_alone_not_on_their_order(
    scores: list[float], min_score: float, margin: float, rng: random.Random
) -> None:
    pairs = list(zip("abcdefghi", scores, strict=False))
    found = decided(scores, min_score=min_score, margin=margin)
    rng.shuffle(pairs)
    shuffled = decided([score for _, score in pairs], "".join(id_ for id_, _ in pairs), min_score=min_score, margin=margin)
    assert shuffled == found
    best = np.sort(np.array([*scores, -1, -1], dtype=np.float32))[::-1]
    if best[0] < min_score or not scores:
        assert isinstance(found, NoMatch)
    elif best[0] - best[1] < margin:
        assert isinstance(found, Ambiguous)
    else:
        assert isinstance(found, Route)
        assert found.score == pytest.approx(max(scores), abs=1e-4)


def test_a_documents_dense_score_is_its_best_texts() -> None:
    query = np.array([1, 0], dtype=np.float32)
    vectors = np.array([[0.6, 0.8], [1, 0], [-1, 0], [0, 1]], dtype=np.float32)
    scores = best_scores(query, vectors, np.array([0, 2, 3]))
    assert scores.tolist() == [1.0, 0.0, 0.0]
    assert scores.dtype == np.float32


def test_a_text_that_points_away_scores_zero() -> None:
    scores = best_scores(np.array([1, 0], dtype=np.float32), np.array([[-1, 0]], dtype=np.float32), np.array([0]))
    assert scores.tolist() == [0.0]


def test_a_documents_mean_vector_is_of_length_one_also_where_its_texts_cancel_out() -> None:
    vectors = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [-1, 0]], dtype=np.float32)
    means = mean_vectors(vectors, np.array([0, 2, 3]))
    assert means[0].tolist() == pytest.approx([2**-0.5, 2**-0.5])
    assert means[1].tolist() == [0.0, 1.0]
    assert means[2].tolist() == [0.0, 0.0]
    assert means.dtype == np.float32


def test_fused_scores_stay_between_zero_and_one_and_each_part_counts() -> None:
    best, mean, lexical = np.eye(3, 4, dtype=np.float32) + np.array([0, 0, 0, 1], dtype=np.float32)
    fused = fuse(best, mean, lexical)
    assert fused.tolist() == pytest.approx([BEST_WEIGHT, MEAN_WEIGHT, LEXICAL_WEIGHT, 1.0])
    assert min(BEST_WEIGHT, MEAN_WEIGHT, LEXICAL_WEIGHT) > 0
    assert fused.dtype == np.float32
