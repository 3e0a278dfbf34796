"""How routing is fitted to questions whose document is known: the weights of evidence first, then how sure to be.

Both are maximum a posteriori estimates: of a softmax regression over the documents (its coefficients are the weights times
the sharpness), and of two logistic regressions, each around what was known before, with the spread below as prior.
Newton's method; both are convex.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from router.evidence import Evidence
from router.matching import CANDIDATES, Matching, Parameters, scores, signs

WEIGHT_SPREAD = 4.0
SIGN_SPREAD = 1.0
STEPS = 40

Array = NDArray[np.float64]


class Example(msgspec.Struct, frozen=True):
    """A question: what speaks for each document, and which it is (None: none of them). `share`: how much it counts."""

    evidence: Evidence
    words: int
    expected: int | None
    share: float = 1.0


def fit(examples: Sequence[Example], before: Parameters, further: Sequence[Example] = ()) -> Parameters:
    """`further` examples count for the probabilities alone. Evidence must be of the kinds that `before` weighs.

    Raises ValueError without examples.
    """
    if not examples:
        raise ValueError("no examples to fit routing to")
    ranked = _weights(examples, before)
    told, first, few = [], [], []
    for example in (*examples, *further):
        found = scores(example.evidence, ranked)
        order = np.argsort(-found, kind="stable")[: CANDIDATES + 1]
        told.append(signs(found[order].tolist(), example.words))
        first.append(example.expected is not None and order[0] == example.expected)
        few.append(example.expected is not None and example.expected in order[:CANDIDATES])
    shares = np.array([example.share for example in (*examples, *further)])
    return Parameters(
        ranked.weights,
        ranked.sharpness,
        _logistic(np.array(told), np.array(first), shares, before.first),
        _logistic(np.array(told), np.array(few), shares, before.few),
    )


def fit_matching(examples: Sequence[Example], before: Matching, further: Sequence[Example] = ()) -> Matching:
    """All of the evidence, and the words alone of the same examples."""
    kinds = len(before.lexical.weights)
    lexical, more = ([_lexical(example, kinds) for example in group] for group in (examples, further))
    full = fit(examples, before.full, further) if examples and len(examples[0].evidence) > kinds else before.full
    return Matching(full, fit(lexical, before.lexical, more))


def held_out(examples: Sequence[Example], before: Matching, folds: int = 5) -> list[Matching]:
    """For each example what is fitted to the other folds: how good that is says what all of them give for questions to come."""
    fitted = [
        fit_matching([example for number, example in enumerate(examples) if number % folds != fold], before)
        for fold in range(folds)
    ]
    return [fitted[number % folds] for number in range(len(examples))]


def _lexical(example: Example, kinds: int) -> Example:
    return msgspec.structs.replace(example, evidence=example.evidence[:kinds])


def _weights(examples: Sequence[Example], before: Parameters) -> Parameters:
    known = [example for example in examples if example.expected is not None and example.evidence.shape[1] > 1]
    start = np.array(before.weights) * before.sharpness

    def slopes(coefficients: Array) -> tuple[Array, Array]:
        gradient, curvature = np.zeros(len(start)), np.zeros((len(start), len(start)))
        for example in known:
            evidence = example.evidence.astype(np.float64)
            exponents = coefficients @ evidence
            likely = np.exp(exponents - exponents.max())
            likely /= likely.sum()
            mean = evidence @ likely
            gradient += example.share * (mean - evidence[:, example.expected])
            curvature += example.share * ((evidence * likely) @ evidence.T - np.outer(mean, mean))
        return gradient, curvature

    coefficients = np.maximum(_newton(slopes, start, WEIGHT_SPREAD), 0.0)  # nothing speaks against a document
    sharpness = float(coefficients.sum())
    if not sharpness:
        return before
    return msgspec.structs.replace(before, weights=tuple((coefficients / sharpness).tolist()), sharpness=sharpness)


def _logistic(told: Array, right: NDArray[np.bool_], shares: Array, before: Sequence[float]) -> tuple[float, ...]:
    def slopes(coefficients: Array) -> tuple[Array, Array]:
        likely = 1 / (1 + np.exp(-(told @ coefficients)))
        spread = shares * likely * (1 - likely)
        return told.T @ (shares * (likely - right)), (told * spread[:, None]).T @ told

    return tuple(_newton(slopes, np.array(before), SIGN_SPREAD).tolist())


def _newton(slopes: Callable[[Array], tuple[Array, Array]], start: Array, spread: float) -> Array:
    """The minimum of a convex loss and a Gaussian prior around `start`. `slopes`: the loss's gradient and curvature."""
    at = start.copy()
    for _ in range(STEPS):
        gradient, curvature = slopes(at)
        step = np.linalg.solve(curvature + np.eye(len(at)) / spread**2, gradient + (at - start) / spread**2)
        longest = np.abs(step).max()
        at -= step * min(1.0, spread / longest if longest else 1.0)
        if longest < 1e-6:
            break
    return at
