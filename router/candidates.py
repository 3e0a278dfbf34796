"""What the prefetch planner (`router/promotions.py`) is given, and what it answers with."""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import Generic

import msgspec

from router.policy_order import HORIZON_S, K
from router.shares import Share

EMPTY: Mapping[str, Share] = MappingProxyType({})


class Candidate(msgspec.Struct, Generic[K], frozen=True):
    """A version that may be promoted: it lies on disk whole. `restore_s`: how long that takes, and a question would wait.

    `size_bytes` is all of it, with what is in RAM already.
    """

    key: K
    size_bytes: int
    restore_s: float
    probability: float = 1.0
    why: str = "pinned"
    pinned: bool = False
    within_s: float = HORIZON_S
    """The time that the probability is of."""
    kind: str = ""
    """Guesses of one kind are trusted alike, by how many of them came true."""
    owner: str = ""
    """Whose it is, where that one may take no more than a share of RAM."""

    def probability_within(self, horizon_s: float) -> float:
        """Of a question within a shorter time, as if it came at random (Poisson); within a longer one it is the same."""
        return 1.0 - float((1.0 - self.probability) ** min(horizon_s / self.within_s, 1.0))


class Snapshot(msgspec.Struct, Generic[K], frozen=True):
    """RAM as it is now. `held` has the bytes of every key there, `used_bytes` their sum."""

    candidates: tuple[Candidate[K], ...]
    held: Mapping[K, int]
    used_bytes: int
    capacity_bytes: int
    exempt: Container[object] = frozenset()
    """What must not be evicted: pinned and leased keys."""
    waiting: bool = False
    """Whether a live question waits for disk or worker."""
    shares: Mapping[str, Share] = EMPTY
    """By owner, of `held` alone: what is on the way is the planner's to count."""


class Promotion(msgspec.Struct, Generic[K], frozen=True):
    """Evict `evict`, then restore `key`. What it costs: `size_bytes` moved in `restore_s`, and what is evicted.

    `chance`: of a question within `grace_s`, so long it is left in RAM for that. `pushes`: whether it takes the room of others,
    of what it evicts or of what live questions need next.
    """

    key: K
    size_bytes: int
    restore_s: float
    evict: tuple[K, ...]
    why: str
    kind: str = ""
    chance: float = 1.0
    grace_s: float = HORIZON_S
    pushes: bool = False
