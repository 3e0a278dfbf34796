"""What to bring from disk to RAM before it is asked, and what that pushes out: the prefetch planner.

Rules. Nothing while live traffic waits. Pinned versions first. A guess must be worth more than what it pushes out, by a
factor. Bytes in flight, and bytes that push others out within an hour, are bounded. What was promoted in vain isn't
promoted again for some hours; what was promoted is left in peace until it had its chance.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container, Mapping
from typing import Any, Generic

import msgspec

from router.policies import Policy
from router.policy_order import HORIZON_S, K

FACTOR = 1.5
"""A promotion must be worth so many times what it pushes out: both are guesses, and moving costs something."""
MIN_PROBABILITY = 0.15
"""Of a question within the horizon. Less likely ones would keep the disk busy for nothing, five times out of six."""
IN_FLIGHT_SHARE = 0.02
"""Of RAM: the most that is under way at a time, but for one version however large."""
WINDOW_S, WINDOW_SHARE = HORIZON_S, 0.25
"""Within a window, promotions that push others out bring at most this share of RAM. Free room may be filled at once."""
GRACE_S = HORIZON_S
"""So long a promoted version that wasn't asked yet is not evicted for another."""
COOLDOWN_S = 4 * 3_600.0
"""So long a version that was promoted and evicted unasked, or couldn't be restored, is not promoted again."""


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


class Promotion(msgspec.Struct, Generic[K], frozen=True):
    """Evict `evict`, then restore `key`. What it costs: `size_bytes` moved in `restore_s`, and what is evicted."""

    key: K
    size_bytes: int
    restore_s: float
    evict: tuple[K, ...]
    why: str


class Promotions(Generic[K]):
    """Plans, and remembers what became of plans. The course of one: `plan`, `started`, `evicted` for each of its victims,
    `finished` or `failed`; then `used` or `evicted` for its own key. `now` never goes back; `check()` states what holds between calls."""

    def __init__(self) -> None:
        self._in_flight: dict[K, Promotion[K]] = {}
        self._leaving: set[K] = set()
        """What is evicted for those in flight, until that is told of."""
        self._unused: OrderedDict[K, float] = OrderedDict()
        """What was promoted and not asked yet, and since when it is in RAM."""
        self._vain: OrderedDict[K, float] = OrderedDict()
        """What was promoted in vain, and when that showed."""
        self._window: deque[tuple[float, int]] = deque()

    def __repr__(self) -> str:
        return f"<Promotions {len(self._in_flight)} in flight, {len(self._unused)} not asked yet, {len(self._vain)} in vain>"

    @property
    def in_flight_bytes(self) -> int:
        """RAM that is spoken for: others must not use it."""
        return sum(promotion.size_bytes for promotion in self._in_flight.values())

    def in_flight(self, key: K) -> bool:
        return key in self._in_flight

    def in_grace(self, key: K, now: float) -> bool:
        """Whether the key is on the way, or was promoted and is to be left in RAM until it had its chance."""
        return key in self._in_flight or (key in self._unused and now - self._unused[key] < GRACE_S)

    # --- deciding

    def plan(self, snapshot: Snapshot[K], policy: Policy[K], now: float) -> tuple[Promotion[K], ...]:
        """What to promote now, in this order; the plans fit into RAM together. Changes nothing."""
        plans: list[Promotion[K]] = []
        if snapshot.waiting:
            return ()
        kept = Kept(self, now, snapshot.exempt)
        kept.planned |= self._leaving
        in_flight_bytes = self.in_flight_bytes
        used_bytes = snapshot.used_bytes + in_flight_bytes - sum(snapshot.held.get(key, 0) for key in self._leaving)
        window_bytes = sum(size_bytes for at, size_bytes in self._window if now - at < WINDOW_S)
        most_in_flight, most_in_window = IN_FLIGHT_SHARE * snapshot.capacity_bytes, WINDOW_SHARE * snapshot.capacity_bytes
        for candidate in sorted(snapshot.candidates, key=lambda one: (not one.pinned, -one.probability)):
            key, size_bytes = candidate.key, candidate.size_bytes - snapshot.held.get(candidate.key, 0)
            if size_bytes <= 0 or key in self._in_flight or key in kept.planned or not self._hopeful(candidate, now):
                continue
            if in_flight_bytes and in_flight_bytes + size_bytes > most_in_flight:
                break
            need_bytes = used_bytes + size_bytes - snapshot.capacity_bytes
            kept.part = key
            evict = policy.victims(need_bytes, now, kept)
            freed_bytes = sum(snapshot.held.get(victim, 0) for victim in evict)
            if freed_bytes < need_bytes:
                continue
            if need_bytes > 0:
                too_much = window_bytes + size_bytes > most_in_window
                if not candidate.pinned and (too_much or not _pays(candidate, evict, policy, now)):
                    continue
                window_bytes += size_bytes
            kept.planned.update((key, *evict))
            used_bytes += size_bytes - freed_bytes
            in_flight_bytes += size_bytes
            plans.append(Promotion(key, size_bytes, candidate.restore_s, evict, candidate.why))
        return tuple(plans)

    def _hopeful(self, candidate: Candidate[K], now: float) -> bool:
        in_vain = candidate.key in self._vain and now - self._vain[candidate.key] < COOLDOWN_S
        return candidate.pinned or (candidate.probability >= MIN_PROBABILITY and not in_vain)

    # --- what became of it

    def started(self, promotion: Promotion[K], now: float) -> None:
        """Its victims are about to be evicted, and its bytes to come. Raises ValueError if they are already."""
        if promotion.key in self._in_flight:
            raise ValueError(f"{promotion.key} is being promoted already")
        self._in_flight[promotion.key] = promotion
        self._leaving.update(promotion.evict)
        self._vain.pop(promotion.key, None)
        self._unused.pop(promotion.key, None)
        while self._window and now - self._window[0][0] >= WINDOW_S:
            self._window.popleft()
        if promotion.evict:
            self._window.append((now, promotion.size_bytes))
        while self._vain and now - next(iter(self._vain.values())) >= COOLDOWN_S:
            self._vain.popitem(last=False)

    def finished(self, key: K, now: float) -> None:
        """It is in RAM. Raises KeyError for one that wasn't started."""
        self._leaving.difference_update(self._in_flight.pop(key).evict)
        self._unused[key] = now

    def failed(self, key: K, now: float) -> None:
        """It could not be restored. Raises KeyError for one that wasn't started."""
        self._leaving.difference_update(self._in_flight.pop(key).evict)
        self._note_vain(key, now)

    def used(self, key: K) -> bool:
        """The key was asked; True if a promotion paid thereby. Any key may be told of."""
        return self._unused.pop(key, None) is not None

    def evicted(self, key: K, now: float) -> bool:
        """The key left RAM; True if it was promoted in vain. Any key may be told of."""
        self._leaving.discard(key)
        if self._unused.pop(key, None) is None:
            return False
        self._note_vain(key, now)
        return True

    def forget(self, key: K) -> None:
        """The version is gone. One under way is still to be told of, as finished (and evicted) or failed."""
        self._unused.pop(key, None)
        self._vain.pop(key, None)

    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""
        if not self._leaving <= {key for promotion in self._in_flight.values() for key in promotion.evict}:
            raise AssertionError("something leaves for nothing")
        if (self._in_flight.keys() & self._unused.keys()) or (self._unused.keys() & self._vain.keys()):
            raise AssertionError("a key is in two states")
        times = [at for at, _ in self._window]
        if times != sorted(times) or list(self._vain.values()) != sorted(self._vain.values()):
            raise AssertionError("what is dated is out of order")

    def _note_vain(self, key: K, now: float) -> None:
        self._vain[key] = now
        self._vain.move_to_end(key)


class Kept(Generic[K]):
    """What must not be evicted: what is exempt anyway, what was promoted and waits for its chance, and what a plan handles."""

    def __init__(self, promotions: Promotions[K], now: float, exempt: Container[object] = ()) -> None:
        self.planned: set[K] = set()
        self.part: K | None = None
        """The candidate, of which a part may be in RAM."""
        self._promotions, self._now, self._exempt = promotions, now, exempt

    def __contains__(self, key: Any) -> bool:
        return key == self.part or key in self.planned or key in self._exempt or self._promotions.in_grace(key, self._now)


def _pays(candidate: Candidate[K], evict: tuple[K, ...], policy: Policy[K], now: float) -> bool:
    """Seconds of waiting that either is expected to save within the horizon."""
    return candidate.probability * candidate.restore_s > FACTOR * sum(policy.worth(key, now) for key in evict)
