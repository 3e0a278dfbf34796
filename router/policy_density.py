"""kvshelf's own policy: what is expected to save the least waiting a byte leaves first.

A key's expected questions a second are `weight * hazard(age)`. The weight counts its questions, older ones less: half for
every `HALF_TURNOVERS` times that RAM was renewed (Lee et al., "LRFU", IEEE Transactions on Computers 2001, with RAM's own pace
for a clock, so that slow and busy installations remember as much as they can use). The hazard says how soon a document is
asked again after a question, learned from all keys: questions that came at an age, over the weight that reached it. This is
the hit density of Beckmann, Chen and Cidon, "LHD" (NSDI 2018), with the key's own weight in the place of their classes:
what is asked four times in a row and then left, what recurs daily and what a scan touches once each show in its curve.
Density is that rate times the cost over the size, as in Cao and Irani, "Cost-Aware WWW Proxy Caching Algorithms" (1997).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Container
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from router.policy_order import HORIZON_S, K, take

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

HALF_TURNOVERS = 12.0
PATIENCE_S = 0.5
"""A wait at all counts as so many seconds more: two short ones are worse than one that is a little longer."""
NEVER_ASKED = 0.02
"""The weight of a key that was read or promoted and not asked yet: a fiftieth of a question."""
MAX_KEYS = 32_768
"""So many keys are remembered, those in RAM always; each takes about 200 bytes."""

FIRST, SWEEP, FADE = 16, 256, 10_000
"""The hazard is computed anew after a quarter more questions, at the least and the most so many; and what it was learned from
is halved after so many."""
PRIOR = 5.0
"""The hazard at an age begins as the mean over all ages, with the evidence of so many questions."""
AGES_S: Floats = np.concatenate([[0.0], 2.0 ** np.arange(1, 23)])
"""The hazard is constant between these: ages double, from two seconds to 48 days."""


class Density(Generic[K]):
    """A row in every array is a key; `check()` states what holds between calls."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = max(capacity_bytes, 1)
        self._turnovers = 0.0
        self._rows: OrderedDict[K, int] = OrderedDict()
        """Known keys, the one that was asked longest ago first."""
        self._keys: list[K | None] = []
        self._free: list[int] = []
        self._held, self._size_bytes = np.zeros(0, np.bool_), np.zeros(0, np.int64)
        self._weight, self._weighed_at, self._used_at, self._exposed_to, self._cost_s = (np.zeros(0) for _ in range(5))
        self._asked, self._exposed = np.zeros(len(AGES_S) - 1), np.zeros(len(AGES_S) - 1)
        """By age: how many questions came, and how much weight waited for how many seconds."""
        self._waits: list[tuple[float, float, float]] = []
        """Waits that ended since the hazard was computed: from age, to age, weight."""
        self._questions, self._learn_at = 0, FIRST
        self._hazard = np.full(len(AGES_S) - 1, 1 / HORIZON_S)
        self._hazard_to = _accumulated(self._hazard)

    def __repr__(self) -> str:
        return f"<Density {int(self._held.sum())} held, {len(self._rows)} known, {self._turnovers:.1f} turnovers>"

    # --- what is told

    def used(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        known = key in self._rows
        row = self._row(key, now)
        weight = float(self._weight_now(row))
        if known:
            used_at = float(self._used_at[row])
            self._asked[_bucket(now - used_at)] += 1
            self._waits.append((float(self._exposed_to[row]) - used_at, now - used_at, weight))
            self._rows.move_to_end(key)
        self._weight[row], self._weighed_at[row] = weight + 1, self._turnovers
        self._used_at[row] = self._exposed_to[row] = now
        self._size_bytes[row], self._cost_s[row] = size_bytes, cost_s
        self._questions += 1
        if self._questions >= self._learn_at:
            self._learn_at = self._questions + min(max(self._questions // 4, FIRST), SWEEP)
            self._learn(now)

    def added(self, key: K, size_bytes: int, cost_s: float, now: float) -> None:
        row = self._row(key, now)
        self._turnovers += 0.0 if self._held[row] else size_bytes / self._capacity_bytes
        self._held[row], self._size_bytes[row], self._cost_s[row] = True, size_bytes, cost_s

    def removed(self, key: K) -> None:
        if key in self._rows:
            self._held[self._rows[key]] = False

    def forget(self, key: K) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._held[row], self._keys[row] = False, None
            self._free.append(row)

    def replaced(self, old: K, new: K) -> None:
        if old in self._rows and old != new:
            self.forget(new)
            row = self._rows[new] = self._rows.pop(old)
            self._held[row], self._keys[row] = False, new

    # --- what is answered

    def victims(self, need_bytes: int, now: float, exempt: Container[object] = ()) -> tuple[K, ...]:
        rows = np.flatnonzero(self._held)
        ages = np.searchsorted(AGES_S[1:-1], now - self._used_at[rows], side="right")
        rate = self._weight_now(rows) * self._hazard[ages]
        density = rate * (self._cost_s[rows] + PATIENCE_S) / np.maximum(self._size_bytes[rows], 1)
        order = rows[np.argsort(density, kind="stable")].tolist()
        return take(((self._keys[row], int(self._size_bytes[row])) for row in order), need_bytes, exempt)

    def worth(self, key: K, now: float, horizon_s: float = HORIZON_S) -> float:
        row = self._rows.get(key)
        if row is None:
            return 0.0
        age_s = now - self._used_at[row]
        before, after = np.interp([age_s, age_s + horizon_s], AGES_S, self._hazard_to)
        return float(-math.expm1(-self._weight_now(row) * (after - before)) * self._cost_s[row])

    def check(self) -> None:
        if {row: key for key, row in self._rows.items()} != {row: key for row, key in enumerate(self._keys) if key is not None}:
            raise AssertionError("rows and keys differ")
        if sorted([*self._rows.values(), *self._free]) != list(range(len(self._keys))):
            raise AssertionError("a row is neither taken nor free, or both")
        if self._held[self._free].any():
            raise AssertionError("a free row is held")

    # --- learning

    def _weight_now(self, rows: Any) -> Any:
        """Of one row or of an array of them."""
        return self._weight[rows] * 0.5 ** ((self._turnovers - self._weighed_at[rows]) / HALF_TURNOVERS)

    def _learn(self, now: float) -> None:
        """Every wait so far counts, ended or not: what is never asked again must be seen as well."""
        rows = np.fromiter(self._rows.values(), np.intp, len(self._rows))
        waiting = np.column_stack([self._exposed_to[rows] - self._used_at[rows], now - self._used_at[rows], self._weight_now(rows)])
        start, end, weight = np.concatenate([np.array(self._waits).reshape(-1, 3), waiting]).T
        within = np.minimum(end[:, None], AGES_S[1:]) - np.maximum(start[:, None], AGES_S[:-1])
        self._exposed += weight @ np.maximum(within, 0.0)
        self._exposed_to[rows] = now
        self._waits.clear()
        if self._asked.sum() >= FADE:
            self._asked /= 2
            self._exposed /= 2
        if self._asked.any() and self._exposed.any():
            mean = self._asked.sum() / self._exposed.sum()
            self._hazard = (self._asked + PRIOR) / (self._exposed + PRIOR / mean)
            self._hazard_to = _accumulated(self._hazard)

    def _row(self, key: K, now: float) -> int:
        """The key's row; a new one for a key that isn't known, at the price of the longest unasked that is not in RAM."""
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= MAX_KEYS:
                out = next((known for known, row in self._rows.items() if not self._held[row]), None)
                if out is not None:
                    self.forget(out)
            if not self._free:
                self._grow()
            row = self._rows[key] = self._free.pop()
            self._keys[row], self._cost_s[row], self._size_bytes[row] = key, 0.0, 0
            self._weight[row], self._weighed_at[row] = NEVER_ASKED, self._turnovers
            self._used_at[row] = self._exposed_to[row] = now
        return row

    def _grow(self) -> None:
        more = max(len(self._keys), 256)
        self._free.extend(range(len(self._keys), len(self._keys) + more))
        self._keys.extend([None] * more)
        for name in ("_held", "_size_bytes", "_weight", "_weighed_at", "_used_at", "_exposed_to", "_cost_s"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros(more, array.dtype)]))


def _bucket(age_s: float) -> int:
    """The number of the age's interval in `AGES_S`."""
    return min(max(int(age_s).bit_length() - 1, 0), len(AGES_S) - 2)


def _accumulated(hazard: Floats) -> Floats:
    """The hazard's integral from 0 to each of `AGES_S`."""
    return np.concatenate([[0.0], np.cumsum(hazard * np.diff(AGES_S))])
