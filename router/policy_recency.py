"""Policies that go by when a key was last asked: `lru` and `arc`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator
from typing import Generic

import msgspec

from router.policy_order import HORIZON_S, K, chance, take


class _Held(msgspec.Struct):
    size_bytes: int
    cost_s: float
    used_at: float

    def worth(self, now: float, horizon_s: float) -> float:
        """As if questions came as often as one in the time since the last."""
        return chance(1 / max(now - self.used_at, 1.0), horizon_s) * self.cost_s


class Lru(Generic[K]):
    """Least recently used leaves first, whatever its size and cost."""

    def __init__(self, capacity_bytes: int) -> None:
        self._held: OrderedDict[K, _Held] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Lru {len(self._held)} held>"

    def used(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        if key in self._held:
            self.added(key, size_bytes, cost_s, now)

    def added(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        self._held[key] = _Held(size_bytes, cost_s, now)
        self._held.move_to_end(key)

    def removed(self, key: K) -> None:
        self._held.pop(key, None)

    def forget(self, key: K) -> None:
        self.removed(key)

    def replaced(self, old: K, new: K) -> None:
        self.removed(old)

    def victims(self, need_bytes: int, now: float, exempt: Container[object] = ()) -> tuple[K, ...]:
        return take(((key, held.size_bytes) for key, held in self._held.items()), need_bytes, exempt)

    def worth(self, key: K, now: float, horizon_s: float = HORIZON_S) -> float:
        held = self._held.get(key)
        return held.worth(now, horizon_s) if held else 0.0

    def check(self) -> None:
        times = [held.used_at for held in self._held.values()]
        if times != sorted(times):
            raise AssertionError("the order is not that of the last uses")


class _Queue(Generic[K]):
    """Keys in the order of their arrival, with their bytes in total."""

    def __init__(self) -> None:
        self.held: OrderedDict[K, _Held] = OrderedDict()
        self.size_bytes = 0

    def append(self, key: K, held: _Held) -> None:
        self.held[key] = held
        self.size_bytes += held.size_bytes

    def pop(self, key: K) -> _Held:
        held = self.held.pop(key)
        self.size_bytes -= held.size_bytes
        return held

    def pop_first(self) -> None:
        self.size_bytes -= self.held.popitem(last=False)[1].size_bytes


class Arc(Generic[K]):
    """Adaptive replacement cache: what was asked once and what was asked again, in a balance that their ghosts move.

    Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache" (FAST 2003), with lengths counted in bytes: the
    target for what was asked once moves by the size of the key that would have been here, times the ghosts' ratio.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._target_bytes = 0.0
        """How much of RAM those asked once may keep (the paper's p)."""
        self._once, self._often = _Queue[K](), _Queue[K]()
        self._once_gone, self._often_gone = _Queue[K](), _Queue[K]()
        """Ghosts: keys that left RAM from either (the paper's B1 and B2)."""

    def __repr__(self) -> str:
        return f"<Arc {len(self._once.held)} once, {len(self._often.held)} often, target {self._target_bytes:.0f} bytes>"

    def used(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        queue = self._queue(key)
        if queue is self._once or queue is self._often:
            queue.pop(key)
            self._often.append(key, _Held(size_bytes, cost_s, now))
        elif queue is not None:
            mine, other = queue.size_bytes, (self._once_gone.size_bytes + self._often_gone.size_bytes) - queue.size_bytes
            step = size_bytes * max(other / mine, 1.0) if mine else 0.0
            target = self._target_bytes + (step if queue is self._once_gone else -step)
            self._target_bytes = min(max(target, 0.0), float(self._capacity_bytes))
            queue.held[key] = _Held(queue.held[key].size_bytes, cost_s, now)

    def added(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        queue = self._queue(key)
        if queue is not None:
            queue.pop(key)
        into = self._once if queue is None or queue is self._once else self._often
        into.append(key, _Held(size_bytes, cost_s, now))

    def removed(self, key: K) -> None:
        queue = self._queue(key)
        if queue is self._once:
            self._once_gone.append(key, queue.pop(key))
        elif queue is self._often:
            self._often_gone.append(key, queue.pop(key))
        # The paper's bounds: once and its ghosts within the capacity, all four within twice that.
        while self._once_gone.held and self._once.size_bytes + self._once_gone.size_bytes > self._capacity_bytes:
            self._once_gone.pop_first()
        while self._often_gone.held and sum(queue.size_bytes for queue in self._queues) > 2 * self._capacity_bytes:
            self._often_gone.pop_first()

    def forget(self, key: K) -> None:
        queue = self._queue(key)
        if queue is not None:
            queue.pop(key)

    def replaced(self, old: K, new: K) -> None:
        self.forget(old)

    def victims(self, need_bytes: int, now: float, exempt: Container[object] = ()) -> tuple[K, ...]:
        return take(self._leaving(), need_bytes, exempt)

    def worth(self, key: K, now: float, horizon_s: float = HORIZON_S) -> float:
        queue = self._queue(key)
        return queue.held[key].worth(now, horizon_s) if queue else 0.0

    def check(self) -> None:
        keys = [key for queue in self._queues for key in queue.held]
        if len(keys) != len(set(keys)):
            raise AssertionError("a key is in two queues")
        if any(queue.size_bytes != sum(held.size_bytes for held in queue.held.values()) for queue in self._queues):
            raise AssertionError("the bytes differ from the keys")
        if not 0 <= self._target_bytes <= self._capacity_bytes:
            raise AssertionError("the target is beyond the capacity")

    @property
    def _queues(self) -> tuple[_Queue[K], ...]:
        return (self._once, self._often, self._once_gone, self._often_gone)

    def _queue(self, key: K) -> _Queue[K] | None:
        return next((queue for queue in self._queues if key in queue.held), None)

    def _leaving(self) -> Iterator[tuple[K, int]]:
        """The oldest of those asked once while these have more than their target, else the oldest of the others."""
        often = ((key, held.size_bytes) for key, held in self._often.held.items())
        left_bytes = self._once.size_bytes
        for key, held in self._once.held.items():
            if left_bytes <= self._target_bytes:
                yield from often
            left_bytes -= held.size_bytes
            yield key, held.size_bytes
        yield from often
