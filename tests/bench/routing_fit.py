"""Fits routing's defaults to the project's labelled sets, and shows what that gives on a set that took no part.

Prints: each set with parameters fitted to the others; a plain sum beside it; the same with each kind of evidence left out; and what goes into
`router/defaults.py`. No engine runs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np

from router.evaluation import best_at, evaluate, judge
from router.evidence import KINDS
from router.fitting import Example, fit_matching
from router.matching import Matching, Parameters, Thresholds, decide
from tests.bench import measure
from tests.bench.routing_sets import KeepingEmbedder, LabelledSet, labelled_sets

FEW = (2, 3, 5, 8, 20, 60)
"""How many documents parts of a set have: also a small catalog must know what it does not know."""
PARTS = 4
"""Of each size."""


async def run() -> None:
    embedder = KeepingEmbedder()
    await embedder.open()
    try:
        sets = [one async for one in labelled_sets(embedder)]
    finally:
        embedder.close()
    rows = [[one.name, *figures(one, fitted([other for other in sets if other is not one]))] for one in sets]
    measure.show("each set with parameters fitted to the others", ("set", *HEADS), rows)
    each = [plain_sum(one) for one in sets]
    rows = [
        [name, *(f"{100 * share:.1f} %" for share in shares)] for name, shares in zip([one.name for one in sets], each, strict=True)
    ]
    rows.append(["mean", *(f"{100 * share:.1f} %" for share in np.mean(each, axis=0))])
    measure.show("by the plain sum, its threshold chosen on the set itself", ("set", *HEADS[:2], *HEADS[5:7]), rows)
    rows = []
    for left_out in (None, *range(len(KINDS))):
        lacking = [without(one, left_out) for one in sets]
        each = [numbers(one, fitted([other for other in lacking if other is not one])) for one in lacking]
        rows.append(["nothing" if left_out is None else KINDS[left_out], *as_text(np.mean(each, axis=0).tolist())])
    measure.show("the mean of the sets, a kind of evidence left out", ("left out", *HEADS), rows)
    measure.console.print(fitted(sets))


HEADS = (
    "first",
    "first five",
    "answered",
    "of these right",
    "foreign refused",
    "answered at 90 % right",
    "foreign refused then",
    "calibration error",
)


def fitted(sets: Sequence[LabelledSet]) -> Matching:
    flat = Parameters((1 / len(KINDS),) * len(KINDS), 20.0, (0.0,) * 5, (0.0,) * 5)
    words = Parameters((1 / 3,) * 3, 20.0, (0.0,) * 5, (0.0,) * 5)
    examples = [example for one in sets for example in weighed(one.examples)]
    further = [example for one in sets for example in weighed(parts(one))]
    return fit_matching(examples, Matching(flat, words), further)


def weighed(examples: Sequence[Example], questions: int = 200) -> list[Example]:
    """Each set counts alike, as so many questions."""
    return [msgspec.structs.replace(example, share=questions / len(examples)) for example in examples]


def parts(one: LabelledSet) -> list[Example]:
    """The questions again, to a few of the documents: most are foreign then, and near."""
    rng, found = random.Random(1), []  # noqa: S311 - a sample, the same each time
    count = len(one.index)
    for size in (size for size in FEW if size < count):
        for _ in range(PARTS):
            kept = sorted(rng.sample(range(count), size))
            asked = [e for e in one.examples if e.expected in kept]
            asked += rng.sample([e for e in one.examples if e.expected not in kept], min(max(len(asked) // 2, 5), 40))
            found += [Example(e.evidence[:, kept], e.words, kept.index(e.expected) if e.expected in kept else None) for e in asked]
    return found


def without(one: LabelledSet, kind: int | None) -> LabelledSet:
    if kind is None:
        return one
    examples = []
    for example in one.examples:
        evidence = example.evidence.copy()
        evidence[kind] = 0
        examples.append(msgspec.structs.replace(example, evidence=evidence))
    return msgspec.structs.replace(one, examples=tuple(examples))


def numbers(one: LabelledSet, matching: Matching) -> list[float]:
    judged = []
    for labelled, example in zip(one.labelled, one.examples, strict=True):
        decision = decide(one.index.documents, example.evidence, example.words, matching, Thresholds())
        judged.append(judge(labelled, decision))
    report = evaluate(judged)
    best = best_at(report.curve, right=0.9)
    return [
        report.top1,
        report.top5,
        report.answered,
        report.answered_right,
        report.refused_of_unanswerable,
        best.answered if best else 0.0,
        best.refused if best else 1.0,
        report.calibration_error,
    ]


def plain_sum(one: LabelledSet) -> tuple[float, float, float, float]:
    """The baseline: words and meaning of the best passage, added up; of the thresholds that have 90 % right the one that answers most."""
    sums = [example.evidence[0] + example.evidence[KINDS.index("meaning of a passage")] for example in one.examples]
    expected = [example.expected for example in one.examples]
    orders = [np.argsort(-scores) for scores in sums]
    known = np.array([place is not None for place in expected])
    right = np.array([order[0] == place for order, place in zip(orders, expected, strict=True)])
    among = np.array([place in order[:5] for order, place in zip(orders, expected, strict=True)])
    best = np.array([scores.max() for scores in sums])
    curve = [(best >= least) for least in np.unique(best)]
    found = [(float(given[known].mean()), float(1 - given[~known].mean())) for given in curve if right[given].mean() >= 0.9]
    answered, refused = max(found, default=(0.0, 1.0))
    return float(right[known].mean()), float(among[known].mean()), answered, refused


def figures(one: LabelledSet, matching: Matching) -> list[str]:
    return as_text(numbers(one, matching))


def as_text(found: Sequence[float]) -> list[str]:
    return [*(f"{100 * share:.1f} %" for share in found[:-1]), f"{found[-1]:.3f}"]
