"""How good routing is on the project's own sets of labelled questions as it is shipped, alone and in conversations. No engine runs."""

from __future__ import annotations

import random

from gateway.evaluation import folder, report
from router.conversation import continued
from router.defaults import MATCHING
from router.evaluation import evaluate
from router.fitting import Example
from router.matching import Decision, Route, Thresholds, decide
from tests.bench import measure
from tests.bench.routing_sets import KeepingEmbedder, LabelledSet, labelled_sets

KINDS = ("stays", "says little", "leaves")
PAIRS = 1000
"""Conversations of two questions, of each kind."""


async def run() -> None:
    embedder = KeepingEmbedder()
    await embedder.open()
    rows = []
    try:
        async for one in labelled_sets(embedder):
            judged, seconds = await folder.ask(one.index, embedder, one.labelled, Thresholds())
            measure.console.print(f"\n{one.name}: {len(one.index)} documents")
            measure.console.print(report.to_table(judged, evaluate(judged), seconds))
            rows += [[one.name, kind, *(f"{100 * share:.1f} %" for share in _pairs(one, kind))] for kind in KINDS]
    finally:
        embedder.close()
    heads = ("set", "the second question", "answered, alone", "of these right", "answered, as the second", "of these right")
    measure.show("conversations: the first question went to its document", heads, rows)


def _pairs(one: LabelledSet, kind: str) -> list[float]:
    """The second question's share that was answered, and of these the right ones: by itself, then in its conversation."""
    rng = random.Random(1)  # noqa: S311 - a sample, the same each time
    known = [example for example in one.examples if example.expected is not None]
    begun = [e for e in known if isinstance(found := _alone(one, e), Route) and found.document == _expected(one, e)]
    answered, right = [0, 0], [0, 0]
    total = 0
    while total < PAIRS:
        first, second = rng.choice(begun), rng.choice(one.followups if kind == "says little" else known)
        expected = _expected(one, first if kind == "says little" else second)
        if first is second or (kind != "says little" and (first.expected == second.expected) != (kind == "stays")):
            continue
        total += 1
        alone = _alone(one, second)
        about = one.index.documents[first.expected] if first.expected is not None else None
        for number, decision in enumerate((alone, continued(alone, about, Thresholds()))):
            if isinstance(decision, Route):
                answered[number] += 1
                right[number] += decision.document == expected
    shares = [[answered[n] / total, right[n] / answered[n] if answered[n] else 0.0] for n in (0, 1)]
    return [*shares[0], *shares[1]]


def _alone(one: LabelledSet, example: Example) -> Decision:
    return decide(one.index.documents, example.evidence, example.words, MATCHING, Thresholds())


def _expected(one: LabelledSet, example: Example) -> str | None:
    return one.index.documents[example.expected].id if example.expected is not None else None
