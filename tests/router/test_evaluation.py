"""The figures that say how good routing is: by hand on a few questions, and their bounds on any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evaluation import Judged, Point, best_at, calibration_error, curve, evaluate


def judged(expected: str | None, ranked: str, *, routed: bool = True, probability: float = 0.5) -> Judged:
    return Judged(f"{expected} {ranked}", expected, tuple(ranked), routed, probability)


SOME = (
    judged("a", "abc", probability=0.9),
    judged("b", "bac", probability=0.8),
    judged("c", "abc", probability=0.6),
    judged("a", "bcdea", routed=False, probability=0.3),
    judged("z", "abcdefz", routed=False, probability=0.2),
    judged(None, "abc", probability=0.7),
    judged(None, "abc", routed=False, probability=0.1),
)


def test_the_figures_of_a_few_questions() -> None:
    report = evaluate(SOME)
    assert (report.questions, report.unanswerable) == (7, 2)
    assert report.top1 == pytest.approx(2 / 5)
    assert report.top5 == pytest.approx(4 / 5)
    assert report.answered == pytest.approx(3 / 5)
    assert report.answered_right == pytest.approx(2 / 4)
    assert report.refused_of_unanswerable == pytest.approx(1 / 2)
    assert set(report.confused) == {("c", "a", 1), ("a", "b", 1), ("z", "a", 1)}


def test_what_each_threshold_would_give() -> None:
    points = curve(SOME)
    assert [point.threshold for point in points] == [0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 0.1]
    assert points[1] == Point(0.8, 2 / 5, 1.0, 1.0)
    assert points[2] == Point(0.7, 2 / 5, 2 / 3, 1 / 2)
    assert points[-1] == Point(0.1, 1.0, 2 / 7, 0.0)
    assert best_at(points, right=0.9) == points[1]
    assert best_at(points, right=0.5) == points[3]
    assert best_at(points[2:], right=0.9) is None


def test_questions_of_one_probability_share_a_threshold() -> None:
    points = curve([judged("a", "a"), judged("b", "a"), judged(None, "a")])
    assert points == (Point(0.5, 1.0, 1 / 3, 0.0),)


def test_probabilities_that_are_as_often_right_as_they_say_have_no_calibration_error() -> None:
    sure = [judged("a", "a" if number < 8 else "b", probability=0.8) for number in range(10)]
    assert calibration_error(sure) == pytest.approx(0.0)
    assert calibration_error([judged("a", "b", probability=1.0)]) == 1.0
    assert calibration_error([]) == 0.0


def test_nothing_asked_is_nothing_reached() -> None:
    report = evaluate([])
    assert (report.top1, report.answered, report.answered_right, report.refused_of_unanswerable) == (0, 0, 0, 0)
    assert (report.curve, report.confused) == ((), ())


@given(
    st.lists(
        st.builds(
            judged,
            st.sampled_from(["a", "b", "c", None]),
            st.permutations("abcdefg").map(lambda letters: "".join(letters[:5])),
            routed=st.booleans(),
            probability=st.floats(0, 1),
        ),
        max_size=30,
    )
)
def test_bounds(some: list[Judged]) -> None:
    report = evaluate(some)
    assert 0 <= report.top1 <= report.top5 <= 1
    assert 0 <= report.calibration_error <= 1
    thresholds = [point.threshold for point in report.curve]
    assert thresholds == sorted(set(thresholds), reverse=True)
    assert [point.answered for point in report.curve] == sorted(point.answered for point in report.curve)
    assert [point.refused for point in report.curve] == sorted((point.refused for point in report.curve), reverse=True)
    at_all = [one for one in some if one.probability >= thresholds[0]] if thresholds else []
    assert not at_all or report.curve[0].right == pytest.approx(sum(one.is_first for one in at_all) / len(at_all))
