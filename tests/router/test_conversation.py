"""A conversation stays with its document until a question leaves it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.conversation import STAYS, continued
from router.documents import Descriptor, Document, DocumentId, Owner
from router.matching import Ambiguous, Decision, Match, NoMatch, Route, Thresholds

LEASE = Document(owner=Owner("acme"), id=DocumentId("lease"), descriptor=Descriptor("Lease"))


def matches(**shares: float) -> tuple[Match, ...]:
    found = (Match(DocumentId(id_), id_.capitalize(), share) for id_, share in shares.items())
    return tuple(sorted(found, key=lambda match: -match.score))


def route(**shares: float) -> Route:
    candidates = matches(**shares)
    return Route(candidates[0].document, candidates[0].score, candidates)


def test_the_first_question_is_taken_alone() -> None:
    alone = route(manual=0.7, lease=0.1)
    assert continued(alone, None, Thresholds(min_score=0.6)) is alone


@pytest.mark.parametrize(
    "alone",
    [
        NoMatch(()),
        NoMatch(matches(manual=0.3, lease=0.1)),
        Ambiguous(matches(manual=0.45, protocol=0.4)),
        route(lease=0.9, manual=0.1),
    ],
)
def test_what_tells_too_little_stays(alone: Decision) -> None:
    found = continued(alone, LEASE, Thresholds(min_score=0.6))
    assert isinstance(found, Route)
    assert found.document == "lease"
    assert found.candidates[0] == Match(LEASE.id, "Lease", found.score)
    assert found.score >= 0.6
    assert len({match.document for match in found.candidates}) == len(found.candidates)


def test_a_question_that_is_surely_about_another_document_leaves() -> None:
    found = continued(route(manual=0.95, lease=0.02), LEASE, Thresholds(min_score=0.6))
    assert isinstance(found, Route)
    assert found.document == "manual"
    odds = 0.95 / 0.05 * (1 - STAYS) / STAYS
    assert found.score == pytest.approx(odds / (1 + odds), abs=1e-3)


@pytest.mark.parametrize("alone", [Ambiguous(matches(manual=0.58, lease=0.3)), route(manual=0.65, lease=0.2)])
def test_between_leaving_and_staying_lies_ambiguous(alone: Decision) -> None:
    found = continued(alone, LEASE, Thresholds(min_score=0.6))
    assert isinstance(found, Ambiguous)
    assert {match.document for match in found.candidates} == {"manual", "lease"}


def test_a_document_that_is_no_candidate_any_more_may_still_be_under_discussion() -> None:
    found = continued(NoMatch(matches(a=0.2, b=0.1, c=0.1, d=0.1, e=0.1)), LEASE, Thresholds(min_score=0.6))
    assert [match.document for match in found.candidates] == ["lease", "a", "b", "c", "d"]


@given(share=st.floats(0, 0.99), min_score=st.floats(0.5, 0.99))
def test_leaving_takes_more_than_being_asked_at_first(share: float, min_score: float) -> None:
    found = continued(route(manual=share), LEASE, Thresholds(min_score=min_score))
    if isinstance(found, Route) and found.document == "manual":
        assert share > min_score
