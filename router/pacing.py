"""How a document is read: in segments short enough that live questions never wait behind the reading.

A running prefill takes the whole token budget of every engine step, so a document read in one request stalls
every question for as long as it lasts. Growing prefixes, one request each, hand the worker back in between.
"""

from __future__ import annotations

import msgspec

IDLE_FACTOR = 2.0
"""With nobody waiting a segment may take this many times the target: fewer requests, and a newcomer waits a moment once."""


class Pace(msgspec.Struct, frozen=True):
    """What is known of the worker's speed: tokens a second of the last segment (None before the first)."""

    tokens_per_s: float | None = None

    def after(self, tokens: int, seconds: float) -> Pace:
        """The pace once a segment of `tokens` new tokens has taken `seconds`."""
        return Pace(tokens / max(seconds, 1e-3))


def next_segment(read: int, total: int, *, chunk: int, pace: Pace, target_s: float, waiting: bool) -> int:
    """The end of the next segment: a multiple of `chunk` above `read`, at most `total` (all in tokens).

    `waiting`: whether live questions share the worker now.
    """
    budget_s = target_s if waiting else target_s * IDLE_FACTOR
    tokens = chunk if pace.tokens_per_s is None else int(pace.tokens_per_s * budget_s)
    return min(read + max(tokens // chunk, 1) * chunk, total)
