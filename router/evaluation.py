"""How good routing is on questions whose document is known: accuracy, coverage, calibration, what is mistaken for what.

A question without a document (None) is one that no document answers: the right thing is to route it nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from router.matching import Decision, Route

FIRST_FEW = 5
BINS = 10
"""Of the calibration error, equally wide."""


class Labelled(msgspec.Struct, frozen=True):
    """A question, and the id of the document that answers it; None where none does."""

    question: str
    document: str | None
    kind: str = ""


class Judged(msgspec.Struct, frozen=True):
    """What routing did with one question. `ranked`: candidates, the best first. `routed`: whether it went to the first of them.

    `probability`: what routing gave that the first is right, 0 to 1.
    """

    question: str
    expected: str | None
    ranked: tuple[str, ...]
    routed: bool
    probability: float
    kind: str = ""

    @property
    def is_first(self) -> bool:
        """Whether the first candidate is the document that was expected."""
        return self.expected is not None and self.ranked[:1] == (self.expected,)

    @property
    def is_answered_right(self) -> bool:
        return self.routed and self.is_first


def judge(asked: Labelled, decision: Decision) -> Judged:
    candidates = decision.candidates
    return Judged(
        asked.question,
        asked.document,
        tuple(candidate.document for candidate in candidates),
        isinstance(decision, Route),
        candidates[0].score if candidates else 0.0,
        asked.kind,
    )


class Point(msgspec.Struct, frozen=True):
    """At one threshold: the share of answerable questions that are routed, of all routed the right ones, of foreign ones those refused."""

    threshold: float
    answered: float
    right: float
    refused: float


class Figures(msgspec.Struct, frozen=True):
    """Shares are 0 to 1, and 0 where there is nothing to take a share of.

    `top1`, `top5`: of the questions that have a document, those with it first, or among the first five. `answered`: those of them
    that were routed. `answered_right`: of all that were routed, foreign ones too, those that went to their document.
    `refused_of_unanswerable`: of the others, those that were routed nowhere.
    """

    top1: float
    top5: float
    answered: float
    answered_right: float
    refused_of_unanswerable: float
    calibration_error: float
    """Expected calibration error (Guo et al. 2017): the mean distance of probability and share of right ones, over bins."""


class Report(Figures, frozen=True, kw_only=True):
    questions: int
    unanswerable: int
    curve: tuple[Point, ...] = ()
    confused: tuple[tuple[str, str, int], ...] = ()
    """(expected, what came first, how often), the most frequent first."""


def evaluate(judged: Sequence[Judged]) -> Report:
    known = [one for one in judged if one.expected is not None]
    foreign = [one for one in judged if one.expected is None]
    routed = [one for one in judged if one.routed]
    confused = Counter((one.expected or "", one.ranked[0]) for one in known if one.ranked and not one.is_first)
    return Report(
        questions=len(judged),
        unanswerable=len(foreign),
        top1=_share(known, [one for one in known if one.is_first]),
        top5=_share(known, [one for one in known if one.expected in one.ranked[:FIRST_FEW]]),
        answered=_share(known, [one for one in known if one.routed]),
        answered_right=_share(routed, [one for one in routed if one.is_first]),
        refused_of_unanswerable=_share(foreign, [one for one in foreign if not one.routed]),
        calibration_error=calibration_error(judged),
        curve=curve(judged),
        confused=tuple((*pair, count) for pair, count in confused.most_common()),
    )


def calibration_error(judged: Sequence[Judged]) -> float:
    bins: dict[int, list[Judged]] = {}
    for one in judged:
        bins.setdefault(min(int(one.probability * BINS), BINS - 1), []).append(one)
    gaps = (abs(sum(one.probability for one in of_bin) - sum(one.is_first for one in of_bin)) for of_bin in bins.values())
    return sum(gaps) / len(judged) if judged else 0.0


def curve(judged: Sequence[Judged]) -> tuple[Point, ...]:
    """What a threshold on the probability alone would give, at each probability that occurs, from the highest down."""
    known = sum(one.expected is not None for one in judged)
    foreign = len(judged) - known
    points: list[Point] = []
    answered = right = mistaken = 0
    by_probability = sorted(judged, key=lambda one: -one.probability)
    for number, one in enumerate(by_probability):
        answered += one.expected is not None
        mistaken += one.expected is None
        right += one.is_first
        following = by_probability[number + 1].probability if number + 1 < len(by_probability) else -1.0
        if following < one.probability:
            points.append(
                Point(
                    one.probability,
                    answered / known if known else 0.0,
                    right / (number + 1),
                    1 - mistaken / foreign if foreign else 0.0,
                )
            )
    return tuple(points)


def best_at(points: Iterable[Point], *, right: float) -> Point | None:
    """The point that answers most with at least this share right; None where there is none."""
    return max((point for point in points if point.right >= right), key=lambda point: point.answered, default=None)


def _share(of: Sequence[Judged], those: Sequence[Judged]) -> float:
    return len(those) / len(of) if of else 0.0
