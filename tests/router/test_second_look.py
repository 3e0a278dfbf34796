"""What the engine says of the candidates, and what follows from it."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.documents import DocumentId
from router.matching import Ambiguous, Decision, Match, NoMatch, Route, Thresholds
from router.second_look import QUESTION_CHARACTERS, SUREST, TRUST, doubtful, reconsidered, verdict, wording

MIN_SCORE, MARGIN = 0.6, 0.1
A, B, C = (DocumentId(name) for name in "abc")


def matches(**shares: float) -> tuple[Match, ...]:
    return tuple(Match(DocumentId(id_), id_.upper(), share) for id_, share in shares.items())


def again(decision: Decision, **verdicts: float) -> Decision:
    told = {DocumentId(id_): word for id_, word in verdicts.items()}
    return reconsidered(decision, told, Thresholds(MIN_SCORE, MARGIN))


def test_a_question_is_asked_whole_and_an_over_long_one_at_its_ends() -> None:
    assert "Answer yes or no" in wording("How long?")
    assert wording("How long?").endswith("How long?")
    long = wording("a" * 50_000 + "z" * 50_000)
    assert len(long) < QUESTION_CHARACTERS + 200
    assert "aaa" in long
    assert long.endswith("zzz")


@pytest.mark.parametrize(
    ("alternatives", "odds"),
    [
        ({"yes": 0.6, "no": 0.3}, 2.0),
        ({" Yes": 0.3, "yes": 0.2, "YES.": 0.1, '"No': 0.2}, 3.0),
        ({"\nNo": 0.5, "yes": 0.25, "Maybe": 0.1}, 0.5),
        ({"No": 0.9, "The": 0.05}, 0.05 / 0.9),  # yes is behind both, and behind "The": at most as likely as that
        ({"No": 0.6, "The": 0.39}, 0.01 / 0.6),  # and at most what is left over
    ],
)
def test_a_verdict_is_the_odds_of_yes_however_it_is_written(alternatives: dict[str, float], odds: float) -> None:
    word = verdict({token: math.log(share) for token, share in alternatives.items()})
    assert word == pytest.approx(math.log(odds))


@pytest.mark.parametrize("alternatives", [{}, {"The": -0.1, "Yesterday": -3.0, "None": -4.0, "Noted": -4.5}])
def test_neither_yes_nor_no_is_no_verdict(alternatives: dict[str, float]) -> None:
    assert verdict(alternatives) is None


@given(st.dictionaries(st.text(max_size=5) | st.sampled_from(["yes", "No"]), st.floats(-200, 0), max_size=20))
def test_whatever_the_engine_sends_is_a_verdict_within_bounds_or_none(alternatives: dict[str, float]) -> None:
    word = verdict(alternatives)
    assert word is None or -SUREST <= word <= SUREST


def test_what_is_looked_at_again() -> None:
    near, far = Route(A, 0.7, matches(a=0.7, b=0.5)), Route(A, 0.9, matches(a=0.9, b=0.1))
    assert not doubtful(near, lead_below=0)
    assert doubtful(near, lead_below=0.3)
    assert not doubtful(far, lead_below=0.3)
    assert doubtful(Ambiguous(matches(a=0.5, b=0.4)), lead_below=0)
    assert not doubtful(Ambiguous(matches(a=0.5)), lead_below=1)
    assert not doubtful(Route(A, 0.9, matches(a=0.9)), lead_below=1)
    assert not doubtful(NoMatch(matches(a=0.3, b=0.2)), lead_below=1)


def test_the_engine_decides_between_two_that_fit_alike() -> None:
    found = again(Ambiguous(matches(a=0.5, b=0.5, c=0.1)), a=-2.0, b=2.0)
    odds = math.exp(TRUST * 2)
    assert found == Route(B, round(odds / (1 + odds), 4), matches(b=round(odds / (1 + odds), 4), a=round(1 / (1 + odds), 4), c=0.1))


def test_little_difference_leaves_it_ambiguous_with_the_better_one_first() -> None:
    found = again(Ambiguous(matches(a=0.5, b=0.49)), a=1.0, b=1.1)
    assert isinstance(found, Ambiguous)
    assert [match.document for match in found.candidates] == [B, A]


def test_a_route_that_the_engine_doubts_becomes_ambiguous() -> None:
    assert isinstance(again(Route(A, 0.65, matches(a=0.65, b=0.5)), a=-1.0, b=1.0), Ambiguous)


def test_what_was_not_asked_keeps_its_score() -> None:
    found = again(Ambiguous(matches(a=0.5, b=0.45, c=0.44)), a=-3.0, b=-5.0)
    assert found.candidates[-2:] == (*matches(c=0.44), Match(B, "B", found.candidates[-1].score))


words = st.floats(-SUREST, SUREST)
shares = st.floats(0, 1)


@given(shares, shares, words)
def test_a_habit_tells_nothing(first: float, second: float, habit: float) -> None:
    decision = Ambiguous(matches(a=first, b=second))
    assert again(decision, a=habit, b=habit) is decision
    assert again(decision, a=habit) is decision
    assert again(decision) is decision


@given(shares, shares, words, words, words)
def test_only_the_difference_counts(first: float, second: float, one: float, other: float, habit: float) -> None:
    decision = Ambiguous(matches(a=first, b=second))
    assume(one != other and one + habit != other + habit)
    plain, shifted = again(decision, a=one, b=other), again(decision, a=one + habit, b=other + habit)
    before = {match.document: match.score for match in plain.candidates}
    for match in shifted.candidates:
        assert match.score == pytest.approx(before[match.document], abs=2e-4)


@given(st.lists(shares, min_size=2, max_size=5), st.lists(words, min_size=2, max_size=5))
def test_what_comes_out_is_a_decision_as_matching_makes_them(given_shares: list[float], told: list[float]) -> None:
    before = Ambiguous(matches(**dict(zip("abcde", sorted(given_shares, reverse=True), strict=False))))
    verdicts = dict(zip((match.document for match in before.candidates), told, strict=False))
    found = reconsidered(before, verdicts, Thresholds(MIN_SCORE, MARGIN))
    assert sorted(match.document for match in found.candidates) == sorted(match.document for match in before.candidates)
    scores = [match.score for match in found.candidates]
    assert all(0 <= score <= 1 for score in scores)
    if found is not before:
        assert scores == sorted(scores, reverse=True)
        leads = scores[0] >= MIN_SCORE and scores[0] - scores[1] >= MARGIN
        assert isinstance(found, Route if leads else Ambiguous)
    if isinstance(found, Route):
        assert (found.document, found.score) == (found.candidates[0].document, scores[0])
