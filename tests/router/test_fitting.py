"""Routing fitted to labelled questions: what tells documents apart gets the weight, and probabilities become shares."""

from __future__ import annotations

import numpy as np
import pytest

from router.documents import Descriptor, Document, DocumentId, Owner
from router.fitting import Example, fit, fit_matching
from router.matching import Matching, Parameters, Thresholds, decide

FLAT = Parameters((0.5, 0.5), 10.0, (0.0,) * 5, (0.0,) * 5)
DOCUMENTS = 8


def examples(count: int = 300, *, telling: int = 0, foreign: float = 0.25, noise: float = 0.15, seed: int = 1) -> list[Example]:
    """Evidence of two kinds, of which one tells the document and the other is noise."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        evidence = rng.uniform(0, 0.4, (2, DOCUMENTS)).astype(np.float32)
        expected = None if rng.random() < foreign else int(rng.integers(DOCUMENTS))
        if expected is not None:
            evidence[telling, expected] = np.clip(0.5 + rng.normal(0, noise), 0, 1)
        found.append(Example(evidence, 4, expected))
    return found


@pytest.mark.parametrize("telling", [0, 1])
def test_what_tells_documents_apart_gets_the_weight(telling: int) -> None:
    fitted = fit(examples(telling=telling), FLAT)
    assert fitted.weights[telling] > 0.8
    assert sum(fitted.weights) == pytest.approx(1)


def test_probabilities_are_shares_of_right_ones_on_questions_that_took_no_part() -> None:
    fitted = fit(examples(600), FLAT)
    matching = Matching(fitted, fitted)
    documents = [Document(owner=Owner("a"), id=DocumentId(str(n)), descriptor=Descriptor(str(n))) for n in range(DOCUMENTS)]
    told, right = [], []
    for example in examples(2000, seed=2):
        decision = decide(documents, example.evidence, example.words, matching, Thresholds(0.5, 0.0))
        told.append(decision.candidates[0].score)
        right.append(example.expected is not None and decision.candidates[0].document == str(example.expected))
    likely, are = np.array(told), np.array(right)
    for low in (0.0, 0.25, 0.5, 0.75):
        those = (likely >= low) & (likely < low + 0.25)
        assert those.sum() > 50
        assert likely[those].mean() == pytest.approx(are[those].mean(), abs=0.12)


def test_few_examples_move_what_was_known_only_a_little() -> None:
    known = fit(examples(600, telling=0), FLAT)
    assert fit(examples(3, telling=1), known).weights[0] > 0.6
    assert fit(examples(600, telling=1), known).weights[1] > 0.7


def test_further_examples_change_the_probabilities_alone() -> None:
    alone, more = fit(examples(), FLAT), fit(examples(), FLAT, examples(300, telling=1, foreign=1.0, seed=3))
    assert more.weights == alone.weights
    assert more.first != alone.first


def test_nothing_speaks_against_a_document() -> None:
    rng = np.random.default_rng(5)
    against = []
    for _ in range(200):
        evidence = rng.uniform(0.2, 1, (2, DOCUMENTS)).astype(np.float32)
        expected = int(rng.integers(DOCUMENTS))
        evidence[0, expected] += 0.3
        evidence[1, expected] = 0.0
        against.append(Example(evidence, 3, expected))
    assert fit(against, FLAT).weights == (1.0, 0.0)


def test_words_alone_are_fitted_beside_all_of_the_evidence() -> None:
    rows = [
        np.vstack([e.evidence[0], e.evidence[1], e.evidence[1], e.evidence[0], e.evidence[1], e.evidence[1]]) for e in examples()
    ]
    both = [Example(evidence, 4, e.expected) for evidence, e in zip(rows, examples(), strict=True)]
    before = Matching(
        Parameters((1 / 6,) * 6, 10.0, (0.0,) * 5, (0.0,) * 5), Parameters((1 / 3,) * 3, 10.0, (0.0,) * 5, (0.0,) * 5)
    )
    fitted = fit_matching(both, before)
    assert (len(fitted.full.weights), len(fitted.lexical.weights)) == (6, 3)
    assert fitted.lexical.weights[0] > 0.8
    assert fitted.full.weights[0] + fitted.full.weights[3] > 0.8


def test_without_examples_there_is_nothing_to_fit() -> None:
    with pytest.raises(ValueError, match="no examples"):
        fit([], FLAT)
