"""What to bring from disk to RAM before it is asked, and what that pushes out: the prefetch planner.

Rules. Nothing while live traffic waits. Pinned versions first. A guess must be worth more than what it pushes out, by a
factor, within the horizon: the time in which RAM is renewed, an hour at most. Beyond its share of RAM an owner's guesses push
out its own first. Guesses of a kind that rarely came true are trusted less. Bytes in flight, and bytes that push others out
within a horizon, are bounded. What was promoted in vain isn't promoted again for some hours; what was promoted is left in
peace until it had its chance.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container
from typing import Any, Generic

from msgspec.structs import replace

from router.candidates import Promotion, Snapshot
from router.policies import Policy
from router.policy_order import HORIZON_S, Faded, K
from router.shares import Share, own_victims

FACTOR = 1.5
"""A promotion must be worth so many times what it pushes out: both are guesses, and moving costs something."""
MIN_PROBABILITY = 0.15
"""Of a question within the horizon. Less likely ones would keep the disk busy for nothing, five times out of six."""
IN_FLIGHT_SHARE = 0.02
"""Of RAM: the most that is under way at a time, but for one version however large."""
PUSHED_SHARE = 0.25
"""Within a horizon, promotions that push others out bring at most this share of RAM, but for one version however large.
Free room may be filled at once."""
FULL_SHARE = 0.9
"""Of RAM: beyond it, and wherever RAM is renewed within the horizon, there is no free room, but what live questions need next."""
BENEFIT, MEMORY_S = 5.0, 86_400.0
"""A kind of guess is trusted as if so many more had come true, and what it did is forgotten by a factor of e in so long."""
COOLDOWN_S = 4 * 3_600.0
"""So long a version that was promoted and evicted unasked, or couldn't be restored, is not promoted again."""


class Promotions(Generic[K]):
    """Plans, and remembers what became of plans. The course of one: `plan`, `started`, `evicted` for each of its victims,
    `finished` or `failed`; then `used`, `evicted`, `left` or `forget` for its own key. `now` never goes back; `check()` states what holds between calls."""

    def __init__(self) -> None:
        self._in_flight: dict[K, Promotion[K]] = {}
        self._leaving: set[K] = set()
        """What is evicted for those in flight, until that is told of."""
        self._unused: dict[K, tuple[Promotion[K], float]] = {}
        """What was promoted and not asked yet, and since when it is in RAM."""
        self._vain: OrderedDict[K, float] = OrderedDict()
        """What was promoted in vain, and when that showed."""
        self._pushed: deque[tuple[float, int]] = deque()
        """When how many bytes were brought in the place of others, within an hour."""
        self._made_room = Faded(HORIZON_S)
        """Keys that left RAM for others than those that were promoted."""
        self._hoped: dict[str, Faded] = {}
        self._came_true: dict[str, Faded] = {}
        """By kind of guess: the chances of those that were promoted, summed, and how many of them were asked."""
        self._now = 0.0

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
        if key in self._in_flight:
            return True
        promotion, since = self._unused.get(key, (None, 0.0))
        return promotion is not None and now - since < promotion.grace_s

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
        horizon_s = self.horizon_s(snapshot, now)
        pushed_bytes = sum(size_bytes for at, size_bytes in self._pushed if now - at < horizon_s)
        most_in_flight, most_pushed = IN_FLIGHT_SHARE * snapshot.capacity_bytes, PUSHED_SHARE * snapshot.capacity_bytes
        chances = {one.key: one.probability_within(horizon_s) * self.trust(one.kind, now) for one in snapshot.candidates}
        shares = {owner: self._left_of(share, snapshot) for owner, share in snapshot.shares.items()}
        for candidate in sorted(snapshot.candidates, key=lambda one: (not one.pinned, -chances[one.key])):
            key, size_bytes = candidate.key, candidate.size_bytes - snapshot.held.get(candidate.key, 0)
            if size_bytes <= 0 or key in self._in_flight or key in kept.planned:
                continue
            if not candidate.pinned and (chances[key] < MIN_PROBABILITY or self._in_vain(key, now)):
                continue
            kept.part = (key,)
            share, own_bytes = shares.get(candidate.owner), 0
            own: tuple[K, ...] = ()
            if share is not None:
                own = own_victims(share, size_bytes, policy, now, kept)
                own_bytes = sum(snapshot.held.get(victim, 0) for victim in own)
                if own_bytes < size_bytes - share.room_bytes:
                    continue
            if in_flight_bytes and in_flight_bytes + size_bytes > most_in_flight:
                break
            need_bytes = used_bytes + size_bytes - snapshot.capacity_bytes
            kept.part = (key, *own)
            evict = (*own, *policy.victims(need_bytes - own_bytes, now, kept))
            freed_bytes = sum(snapshot.held.get(victim, 0) for victim in evict)
            if freed_bytes < need_bytes:
                continue
            is_full = horizon_s < HORIZON_S or used_bytes + size_bytes - own_bytes > FULL_SHARE * snapshot.capacity_bytes
            pushes = is_full or bool(own)
            if pushes and not candidate.pinned:
                rivals = evict
                if is_full and need_bytes < size_bytes:
                    rivals = (*own, *policy.victims(size_bytes - own_bytes, now, kept))
                lost_s = sum(policy.worth(rival, now, horizon_s) for rival in rivals)
                too_much = pushed_bytes > 0 and pushed_bytes + size_bytes > most_pushed
                if too_much or chances[key] * candidate.restore_s < FACTOR * lost_s:
                    continue
            kept.planned.update((key, *evict))
            if share is not None:
                shares[candidate.owner] = replace(share, room_bytes=share.room_bytes + own_bytes - size_bytes)
            used_bytes += size_bytes - freed_bytes
            in_flight_bytes += size_bytes
            pushed_bytes += size_bytes if pushes else 0
            plans.append(
                Promotion(
                    key,
                    size_bytes,
                    candidate.restore_s,
                    evict,
                    candidate.why,
                    kind="pinned" if candidate.pinned else candidate.kind,
                    chance=chances[key],
                    grace_s=min(candidate.within_s, horizon_s),
                    pushes=pushes,
                )
            )
        return tuple(plans)

    def _left_of(self, share: Share, snapshot: Snapshot[K]) -> Share:
        """The share once what is on the way has come, and what leaves for it has left."""
        coming_bytes = sum(promotion.size_bytes for key, promotion in self._in_flight.items() if key in share.keys)
        leaving_bytes = sum(snapshot.held.get(key, 0) for key in self._leaving if key in share.keys)
        return replace(share, room_bytes=share.room_bytes - coming_bytes + leaving_bytes)

    def horizon_s(self, snapshot: Snapshot[K], now: float) -> float:
        """The time in which RAM is renewed at the pace of the last hour; `HORIZON_S` at most."""
        per_s = self._made_room.rate(now)
        if not per_s or not snapshot.used_bytes:
            return HORIZON_S
        room = snapshot.capacity_bytes / snapshot.used_bytes * len(snapshot.held)
        return min(room / per_s, HORIZON_S)

    def trust(self, kind: str, now: float) -> float:
        """What chances of this kind are to be multiplied by, at most 1: how many came true of those that should have, of late."""
        hoped, came_true = (of[kind].sum(now) if kind in of else 0.0 for of in (self._hoped, self._came_true))
        return min((came_true + BENEFIT) / (hoped + BENEFIT), 1.0)

    def _in_vain(self, key: K, now: float) -> bool:
        return key in self._vain and now - self._vain[key] < COOLDOWN_S

    # --- what became of it

    def started(self, promotion: Promotion[K], now: float) -> None:
        """Its victims are about to be evicted, and its bytes to come. Raises ValueError if they are already."""
        if promotion.key in self._in_flight:
            raise ValueError(f"{promotion.key} is being promoted already")
        self._in_flight[promotion.key] = promotion
        self._leaving.update(promotion.evict)
        self._vain.pop(promotion.key, None)
        self._unused.pop(promotion.key, None)
        while self._pushed and now - self._pushed[0][0] >= HORIZON_S:
            self._pushed.popleft()
        if promotion.pushes:
            self._pushed.append((now, promotion.size_bytes))
        while self._vain and now - next(iter(self._vain.values())) >= COOLDOWN_S:
            self._vain.popitem(last=False)

    def finished(self, key: K, now: float) -> None:
        """It is in RAM. Raises KeyError for one that wasn't started."""
        self._now = now
        promotion = self._in_flight.pop(key)
        self._leaving.difference_update(promotion.evict)
        self._unused[key] = (promotion, now)

    def failed(self, key: K, now: float) -> None:
        """It could not be restored. Raises KeyError for one that wasn't started."""
        self._leaving.difference_update(self._in_flight.pop(key).evict)
        self._note_vain(key, now)

    def used(self, key: K) -> bool:
        """The key was asked; True if a promotion paid thereby. Any key may be told of."""
        return self._settle(key, came_true=True)

    def evicted(self, key: K, now: float) -> bool:
        """The key left RAM for another; True if it was promoted in vain. Any key may be told of."""
        if key in self._leaving:
            self._leaving.discard(key)
        else:
            self._made_room.add(1.0, now)
        return self.left(key, now)

    def left(self, key: K, now: float) -> bool:
        """The key left RAM, but not for another, which would say how soon RAM is renewed; True if it was promoted in vain."""
        self._now = now
        if not self._settle(key, came_true=False):
            return False
        self._note_vain(key, now)
        return True

    def forget(self, key: K) -> None:
        """The version is gone, or all RAM was lost at once, which says nothing of it.

        One under way is still to be told of, as finished (and evicted) or failed."""
        self._unused.pop(key, None)
        self._vain.pop(key, None)

    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""
        if not self._leaving <= {key for promotion in self._in_flight.values() for key in promotion.evict}:
            raise AssertionError("something leaves for nothing")
        if (self._in_flight.keys() & self._unused.keys()) or (self._unused.keys() & self._vain.keys()):
            raise AssertionError("a key is in two states")
        times = [at for at, _ in self._pushed]
        if times != sorted(times) or list(self._vain.values()) != sorted(self._vain.values()):
            raise AssertionError("what is dated is out of order")

    def _settle(self, key: K, *, came_true: bool) -> bool:
        """It is known what became of a promotion; False if there was none."""
        if key not in self._unused:
            return False
        promotion, _ = self._unused.pop(key)
        self._hoped.setdefault(promotion.kind, Faded(MEMORY_S)).add(promotion.chance, self._now)
        self._came_true.setdefault(promotion.kind, Faded(MEMORY_S)).add(came_true, self._now)
        return True

    def _note_vain(self, key: K, now: float) -> None:
        self._vain[key] = now
        self._vain.move_to_end(key)


class Kept(Generic[K]):
    """What must not be evicted: what is exempt anyway, what was promoted and waits for its chance, and what a plan handles."""

    def __init__(self, promotions: Promotions[K], now: float, exempt: Container[object] = ()) -> None:
        self.planned: set[K] = set()
        self.part: tuple[K, ...] = ()
        """The candidate, of which a part may be in RAM, and what leaves for it of its owner's."""
        self._promotions, self._now, self._exempt = promotions, now, exempt

    def __contains__(self, key: Any) -> bool:
        return key in self.part or key in self.planned or key in self._exempt or self._promotions.in_grace(key, self._now)
