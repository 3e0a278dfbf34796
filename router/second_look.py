"""The engine's own word on which of a few documents a question is about: how it is asked, what it tells, what follows.

Taken by `gateway/asking/second_look.py` where matching is in doubt (`router/matching.py`).

1. Behind each document's prefix the model is asked whether it answers the question. What counts is not what it would
   say but by how much: the log-odds of yes against no as its first token.
2. A model may be given to saying yes, or no, whatever it is asked. So only what a verdict differs by from the mean of
   all counts, and one alone tells nothing.
3. Bayes' rule in odds, with what the model says at a discount (TRUST): its verdicts are no measured probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

from msgspec.structs import replace

from router.conversation import shortened
from router.documents import DocumentId
from router.matching import Ambiguous, Decision, Match, NoMatch, Route, Thresholds

TRUST = 0.5
"""What of a verdict's log-odds counts: half, a probability of 0.88 as one of 0.73. Models are surer than they are right."""
SUREST = 6.0
"""No verdict is surer than this, in log-odds: about 0.998."""
QUESTION_CHARACTERS = 2000
"""Of a longer question the beginning and the end are asked."""
ALTERNATIVES = 20
"""First tokens whose log-probabilities are asked for: as many as vLLM gives unless it is told otherwise."""

_UNTOLD = 1e-9


def wording(question: str) -> str:
    """What is asked of each document in the place of the question."""
    question = shortened(question, QUESTION_CHARACTERS, " … ")
    return f"Does this document answer the following question? Answer yes or no, with one word.\n\nQuestion: {question}"


def verdict(alternatives: Mapping[str, float]) -> float | None:
    """The log-odds of yes against no, from the log-probabilities of the likeliest first tokens. None where neither is among them.

    The one that is not among them is taken to be as likely as it can be.
    """
    shares = {"yes": 0.0, "no": 0.0}
    for token, log_probability in alternatives.items():
        word = token.strip(" \n\t\"'*.,:!").casefold()
        if word in shares:
            shares[word] += math.exp(log_probability)
    if not any(shares.values()):
        return None
    untold = min(1 - sum(map(math.exp, alternatives.values())), math.exp(min(alternatives.values())))
    yes, no = (max(share or untold, _UNTOLD) for share in shares.values())
    return max(-SUREST, min(SUREST, math.log(yes / no)))


def doubtful(decision: Decision, *, lead_below: float) -> bool:
    """Whether a second look could tell more: of what is ambiguous, and of a route that leads the second document by less than this."""
    match decision:
        case NoMatch():
            return False
        case Ambiguous():
            return len(decision.candidates) > 1
        case Route(_, _, (first, second, *_)):
            return first.score - second.score < lead_below
        case _:
            return False


def reconsidered(decision: Decision, verdicts: Mapping[DocumentId, float], thresholds: Thresholds) -> Decision:
    """The decision with what the engine says of its candidates. Itself where the verdicts tell no difference, or there are too few.

    Never no match: of which documents it may be is the matching's to say.
    """
    if len(verdicts) < 2 or len(set(verdicts.values())) == 1:
        return decision
    mean = fmean(verdicts.values())
    weighed = [_weighed(match, verdicts.get(match.document, mean) - mean) for match in decision.candidates]
    candidates = tuple(sorted(weighed, key=lambda match: -match.score))
    if thresholds.allow(candidates):
        return Route(candidates[0].document, candidates[0].score, candidates)
    return Ambiguous(candidates)


def _weighed(match: Match, differs: float) -> Match:
    """The match with its odds changed by a verdict that differs from the mean by so much."""
    if not 0 < match.score < 1:
        return match
    odds = match.score / (1 - match.score) * math.exp(TRUST * differs)
    return replace(match, score=round(odds / (1 + odds), 4))
