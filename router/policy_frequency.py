"""Policies that go by how often a key was asked while in RAM: `lfu` and `gdsf`."""

from __future__ import annotations

from collections.abc import Container
from typing import Generic

import msgspec

from router.policy_order import HORIZON_S, K, Ranking, chance, take


class _Held(msgspec.Struct):
    size_bytes: int
    cost_s: float
    since: float
    times: int = 1

    def again(self, size_bytes: int, cost_s: float, times: int = 1) -> _Held:
        return _Held(size_bytes, cost_s, self.since, self.times + times)

    def worth(self, now: float, horizon_s: float) -> float:
        """As if questions came as often as they did since the key came, for which a minute at least is taken."""
        return chance(self.times / max(now - self.since, 60.0), horizon_s) * self.cost_s


class Lfu(Generic[K]):
    """Least frequently used leaves first, among equals the least recently used; a key that left begins anew."""

    def __init__(self, capacity_bytes: int) -> None:
        self._held: dict[K, _Held] = {}
        self._order = Ranking[K]()

    def __repr__(self) -> str:
        return f"<Lfu {len(self._held)} held>"

    def used(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        if key in self._held:
            self._place(key, self._held[key].again(size_bytes, cost_s))

    def added(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        held = self._held.get(key)
        self._place(key, held.again(size_bytes, cost_s, times=0) if held else _Held(size_bytes, cost_s, now))

    def removed(self, key: K) -> None:
        self._held.pop(key, None)
        self._order.drop(key)

    def forget(self, key: K) -> None:
        self.removed(key)

    def replaced(self, old: K, new: K) -> None:
        self.removed(old)

    def victims(self, need_bytes: int, now: float, exempt: Container[object] = ()) -> tuple[K, ...]:
        return take(((key, self._held[key].size_bytes) for key in self._order.ascending()), need_bytes, exempt)

    def worth(self, key: K, now: float, horizon_s: float = HORIZON_S) -> float:
        return self._held[key].worth(now, horizon_s) if key in self._held else 0.0

    def check(self) -> None:
        if {key: self._order.rank(key) for key in self._held} != {key: held.times for key, held in self._held.items()}:
            raise AssertionError("the order differs from the counts")

    def _place(self, key: K, held: _Held) -> None:
        self._held[key] = held
        self._order.place(key, held.times)


class Gdsf(Generic[K]):
    """Greedy-dual-size-frequency: the lowest of `clock + times * cost / size` leaves first, and the clock rises to its number.

    Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy" (HPL-98-69R1, 1998). The
    clock ages what was asked often once: a key that comes later starts higher.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._held: dict[K, _Held] = {}
        self._order = Ranking[K]()
        self._clock = 0.0

    def __repr__(self) -> str:
        return f"<Gdsf {len(self._held)} held, clock {self._clock:.3g}>"

    def used(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        if key in self._held:
            self._place(key, self._held[key].again(size_bytes, cost_s))

    def added(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        held = self._held.get(key)
        self._place(key, held.again(size_bytes, cost_s, times=0) if held else _Held(size_bytes, cost_s, now))

    def removed(self, key: K) -> None:
        if key in self._held:
            self._clock = max(self._clock, self._order.rank(key))
            self.forget(key)

    def forget(self, key: K) -> None:
        self._held.pop(key, None)
        self._order.drop(key)

    def replaced(self, old: K, new: K) -> None:
        self.forget(old)

    def victims(self, need_bytes: int, now: float, exempt: Container[object] = ()) -> tuple[K, ...]:
        return take(((key, self._held[key].size_bytes) for key in self._order.ascending()), need_bytes, exempt)

    def worth(self, key: K, now: float, horizon_s: float = HORIZON_S) -> float:
        return self._held[key].worth(now, horizon_s) if key in self._held else 0.0

    def check(self) -> None:
        if set(self._held) != set(self._order.ascending()):
            raise AssertionError("the order differs from what is held")

    def _place(self, key: K, held: _Held) -> None:
        self._held[key] = held
        self._order.place(key, self._clock + held.times * held.cost_s / max(held.size_bytes, 1))
