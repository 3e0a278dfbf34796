"""Which document a conversation is about: it stays with one until a question leaves it for another.

"And what about the deposit?" tells too little by itself. What a question tells is weighed against the habit of staying.
"""

from __future__ import annotations

import msgspec

from router.documents import Document
from router.matching import CANDIDATES, Ambiguous, Decision, Match, Route, Thresholds

STAYS = 0.6
"""How often a question is about the same document as the one before it, where nothing else is known."""


def continued(alone: Decision, about: Document | None, thresholds: Thresholds) -> Decision:
    """What to do with a further question of a conversation. `alone`: what would be done with it without the others.

    `about`: the document that the question before it went to. Bayes' rule in odds: what speaks for another document counts
    (1 - STAYS) / STAYS of what it would alone. Between leaving and staying lies ambiguous.
    """
    if about is None:
        return alone
    others = tuple(match for match in alone.candidates if match.document != about.id)
    rival = others[0].score if others else 0.0
    leaving = rival * (1 - STAYS) / (rival * (1 - STAYS) + (1 - rival) * STAYS)
    here = Match(about.id, about.descriptor.title, round(1 - leaving, 4))
    if here.score >= thresholds.min_score:
        return Route(about.id, here.score, (here, *others)[:CANDIDATES])
    there = msgspec.structs.replace(others[0], score=round(leaving, 4))
    candidates = (there, here, *others[1:])[:CANDIDATES]
    leads = there.score >= thresholds.min_score and isinstance(alone, Route)
    return Route(there.document, there.score, candidates) if leads else Ambiguous(candidates)


def shortened(question: str, characters: int, between: str = " ") -> str:
    """A longer one's beginning and end, half each: what is pasted stands between them."""
    half = characters // 2
    return question if len(question) <= characters else f"{question[:half]}{between}{question[-half:]}"
