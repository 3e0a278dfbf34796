"""What policies and planner share: the horizon, sums that fade, how victims are taken from an order, an order that changes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Hashable, Iterable, Iterator
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

HORIZON_S = 3_600.0
"""Worth and guesses look this far ahead at most. A smaller RAM tier is renewed sooner, and what comes later is nothing to it."""


def chance(rate_per_s: float, horizon_s: float) -> float:
    """The probability of a question within the horizon, if they come at random at this rate (Poisson)."""
    return -math.expm1(-rate_per_s * horizon_s)


class Faded:
    """A sum in which everything counts less with its age, by a factor of e in so many seconds."""

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._sum = self._at = 0.0
        self._since: float | None = None

    def add(self, value: float, now: float) -> None:
        self._since = now if self._since is None else self._since
        self._sum = self.sum(now) + value
        self._at = now

    def sum(self, now: float) -> float:
        return self._sum * math.exp((self._at - now) / self._memory_s)

    def rate(self, now: float) -> float:
        """A second, over what is remembered or the time since the first, but a minute at least; 0 before the first."""
        if self._since is None:
            return 0.0
        over_s = -math.expm1(-max(now - self._since, 60.0) / self._memory_s) * self._memory_s
        return self.sum(now) / over_s


def take(order: Iterable[tuple[K, int]], need_bytes: int, exempt: Container[object]) -> tuple[K, ...]:
    """Keys of `order` (key, size in bytes) that are not exempt, from its beginning, until `need_bytes` come together.

    None of them could be spared: one that a later, larger one made needless is left out. Empty where nothing is
    needed, and where all together are not enough.
    """
    if need_bytes <= 0:
        return ()
    taken: list[tuple[K, int]] = []
    missing = need_bytes
    for key, size_bytes in order:
        if key not in exempt:
            taken.append((key, size_bytes))
            missing -= size_bytes
            if missing <= 0:
                break
    else:
        return ()
    victims = []
    for key, size_bytes in reversed(taken):  # the best are spared first
        if missing + size_bytes <= 0:
            missing += size_bytes
        else:
            victims.append(key)
    return tuple(reversed(victims))


class Ranking(Generic[K]):
    """Keys by a number each, lowest first; ties by who was placed first. A heap, where an outdated entry may lie on for a while."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._places: dict[K, tuple[float, int]] = {}
        self._numbers = count()

    def place(self, key: K, rank: float) -> None:
        """Rank the key, anew if it is here."""
        place = self._places[key] = (rank, next(self._numbers))
        heapq.heappush(self._heap, (*place, key))
        self._tidy()

    def drop(self, key: K) -> None:
        """The key is ranked no more. One that isn't here is no error."""
        self._places.pop(key, None)
        self._tidy()

    def rank(self, key: K) -> float:
        """Raises KeyError for a key that isn't here."""
        return self._places[key][0]

    def ascending(self) -> Iterator[K]:
        """The keys from the lowest, at a cost that grows with how many are taken. Nothing may be changed meanwhile."""
        heap = self._heap
        ahead = [(heap[0], 0)] if heap else []
        while ahead:
            (rank, number, key), index = heapq.heappop(ahead)
            for child in range(2 * index + 1, min(2 * index + 3, len(heap))):
                heapq.heappush(ahead, (heap[child], child))
            if self._places.get(key) == (rank, number):
                yield key

    def _tidy(self) -> None:
        """Outdated entries go from the top at once, from elsewhere when they are the most."""
        heap, places = self._heap, self._places
        while heap and places.get(heap[0][2]) != heap[0][:2]:
            heapq.heappop(heap)
        if len(heap) > 2 * len(places) + 64:
            self._heap = [(*place, key) for key, place in places.items()]
            heapq.heapify(self._heap)
