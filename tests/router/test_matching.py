"""Evidence into a decision: a route only where one document is likely enough to be the right one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.defaults import MATCHING
from router.documents import Descriptor, Document, DocumentId, Owner
from router.evidence import KINDS, LEXICAL_KINDS
from router.matching import (
    CANDIDATES,
    OUTRIGHT,
    Ambiguous,
    Decision,
    Matching,
    NoMatch,
    Parameters,
    Route,
    Thresholds,
    decide,
    places_of_best,
    scores,
    signs,
)

SCORES = st.lists(st.floats(0, 1, width=32), max_size=9)
LEAD = Parameters(weights=(1.0,), sharpness=10.0, first=(0.0, 3.0, 0.0, 0.0, -2.0), few=(3.0, 0.0, 0.0, 0.0, 0.0))
"""The first one's lead tells whether it is right, its score whether one of the few is."""
PLAIN = Matching(full=LEAD, lexical=LEAD)


def documents(ids: str) -> list[Document]:
    return [Document(owner=Owner("acme"), id=DocumentId(id_), descriptor=Descriptor(title=id_.upper())) for id_ in ids]


def decided(
    found: list[float], ids: str = "abcdefghi", *, min_score: float = 0.5, margin: float = 0.1, named: int | None = None
) -> Decision:
    evidence = np.array([found], dtype=np.float32)
    return decide(documents(ids[: len(found)]), evidence, 3, PLAIN, Thresholds(min_score, margin), named=named)


def test_a_document_that_clearly_leads_gets_the_question() -> None:
    found = decided([0.2, 0.75])
    assert isinstance(found, Route)
    assert found.document == "b"
    assert found.score == found.candidates[0].score > 0.9
    assert [(match.document, match.title) for match in found.candidates] == [("b", "B"), ("a", "A")]


def test_the_others_are_less_likely_by_the_distance_of_their_scores() -> None:
    first, second, third = decided([0.2, 0.75, 0.5]).candidates
    assert second.score == pytest.approx(first.score * np.exp(-10 * 0.25), abs=1e-3)
    assert third.score == pytest.approx(first.score * np.exp(-10 * 0.55), abs=1e-3)


def test_a_single_document_must_lead_what_an_unrelated_one_would_have() -> None:
    assert isinstance(decided([0.5]), Route)
    assert isinstance(decided([0.105]), NoMatch)


def test_documents_that_fit_about_equally_are_ambiguous() -> None:
    found = decided([0.6, 0.1, 0.605])
    assert isinstance(found, Ambiguous)
    assert [match.document for match in found.candidates] == ["c", "a", "b"]


def test_a_document_that_is_likely_but_leads_too_little_is_ambiguous() -> None:
    assert isinstance(decided([0.75, 0.6], margin=0.1), Route)
    assert isinstance(decided([0.75, 0.6], margin=0.9), Ambiguous)


def test_nothing_good_enough_is_no_match_with_the_least_bad() -> None:
    found = decided([0.105, 0.1])
    assert isinstance(found, NoMatch)
    assert [match.document for match in found.candidates] == ["a", "b"]


def test_an_empty_view_is_no_match() -> None:
    assert decided([]) == NoMatch(())


def test_ties_go_by_id() -> None:
    assert [match.document for match in decided([0.5, 0.5, 0.5], "cab").candidates] == ["a", "b", "c"]


def test_at_most_five_candidates_are_named() -> None:
    assert len(decided([0.5] * 9).candidates) == CANDIDATES == 5


def test_a_document_that_is_named_outright_wins_by_itself() -> None:
    found = decided([0.9, 0.1, 0.0], named=2)
    assert isinstance(found, Route)
    assert (found.document, found.score) == ("c", OUTRIGHT)
    assert [match.document for match in found.candidates] == ["c", "a", "b"]
    assert max(match.score for match in found.candidates[1:]) <= 1 - OUTRIGHT


@settings(max_examples=100)
@given(found=SCORES, min_score=st.floats(0, 1, width=32), margin=st.floats(0, 0.5, width=32), rng=st.randoms())
def test_the_decision_depends_on_the_scores_alone_not_on_their_order(
    found: list[float], min_score: float, margin: float, rng: random.Random
) -> None:
    pairs = list(zip("abcdefghi", found, strict=False))
    decision = decided(found, min_score=min_score, margin=margin)
    rng.shuffle(pairs)
    shuffled = decided([score for _, score in pairs], "".join(id_ for id_, _ in pairs), min_score=min_score, margin=margin)
    assert shuffled == decision
    shares = [match.score for match in decision.candidates]
    assert shares == sorted(shares, reverse=True)
    if isinstance(decision, Route):
        assert shares[0] >= min_score
        assert len(shares) == 1 or shares[0] - shares[1] >= margin - 1e-6


@settings(max_examples=50)
@given(found=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40), count=st.integers(1, 8))
def test_the_leading_ones_are_those_of_a_sorted_list(found: list[float], count: int) -> None:
    view = documents("".join(chr(ord("a") + number) for number in range(len(found))))
    expected = sorted(range(len(found)), key=lambda n: (-found[n], view[n].id))[:count]
    assert places_of_best(view, np.array(found, dtype=np.float32), count) == expected


def test_each_kind_of_evidence_counts_by_its_weight() -> None:
    found = scores(np.eye(len(KINDS), dtype=np.float32), MATCHING.full)
    assert found.tolist() == pytest.approx(list(MATCHING.full.weights))
    assert min(*MATCHING.full.weights, *MATCHING.lexical.weights) > 0
    assert sum(MATCHING.full.weights) == pytest.approx(1)
    assert sum(MATCHING.lexical.weights) == pytest.approx(1)


def test_words_alone_have_parameters_of_their_own() -> None:
    assert MATCHING.parameters(np.zeros((LEXICAL_KINDS, 2), dtype=np.float32)) is MATCHING.lexical
    assert MATCHING.parameters(np.zeros((len(KINDS), 2), dtype=np.float32)) is MATCHING.full


def test_absent_rivals_count_like_unrelated_documents() -> None:
    assert signs([0.6], 3).tolist() == signs([0.6, 0.1, 0.1, 0.1, 0.1, 0.1], 3).tolist()
    assert signs([0.6, 0.3], 3).tolist() == signs([0.6, 0.3, 0.1, 0.1, 0.1, 0.1], 3).tolist()


@pytest.mark.parametrize("kinds", [LEXICAL_KINDS, len(KINDS)])
@pytest.mark.parametrize("others", [0.05, 0.2, 0.4])
def test_by_default_a_better_fit_is_never_less_likely(kinds: int, others: float) -> None:
    """At the same words and rivals; from a fit that no document has to a perfect one."""
    shares = []
    for best in np.linspace(others, 1, 30):
        evidence = np.full((kinds, 8), others, dtype=np.float32)
        evidence[:, 3] = best
        decision = decide(documents("abcdefgh"), evidence, 4, MATCHING, Thresholds())
        shares.append(decision.candidates[0].score)
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-1] > 0.95
