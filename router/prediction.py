"""Which document is likely to be asked next: after the one before, at this hour of the day, or because it is much asked.

Learned from questions as they come, within bounds, and kept over restarts as bytes. Knows documents by their names, not
versions: habits outlive a change of content. What follows what is learned from and guessed for each tenant by itself.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Container, Iterator

import msgspec

from router.policy_order import HORIZON_S, chance

PAUSE_S = 3_600.0
"""A tenant that was silent for longer begins anew: what it asks then follows nothing."""
SOON_S = 600.0
"""What follows a document is asked within about this time."""
LEAD_S = 900.0
"""Documents of an hour of the day are guessed from this long before it begins."""
MIN_DAYS, MIN_RATE = 3, 2.0
"""Less than this is no habit: days with a question at an hour; questions a day."""
DAYS = 16
"""How many days an hour's habit is told from."""
FULL_COUNT = 32
"""When a document was left this often its followers' counts are halved, so that a habit can change."""
DOUBT, FULL_TRUST = 20.0, 1_000.0
"""Guesses are doubted as if so many had failed before; and so many are remembered."""
MAX_DOCUMENTS, MAX_TENANTS, MAX_ROWS, MAX_FOLLOWERS, MAX_POPULAR, MAX_HOURLY = 20_000, 10_000, 50_000, 8, 32, 256
"""What is remembered, the least recently used forgotten first: some 50 MB where all of it is full."""

_HOUR_S, _DAY_S = 3_600, 86_400


class Guess(msgspec.Struct, frozen=True):
    """`probability` of a question within `within_s`, 0 to 1; `why` in words for operators."""

    key: str
    probability: float
    why: str
    within_s: float = HORIZON_S
    kind: str = "popular"


class _Row(msgspec.Struct):
    """What one tenant asked after one document: how often it left it, and how often for which others."""

    left: int = 0
    times: dict[str, int] = {}  # msgspec makes a new one for each


class _Habit(msgspec.Struct):
    """When a document is asked. A bit in `hours` is a day with a question at that hour (UTC), `day` the lowest."""

    first_day: int
    day: int
    rate: float = 0.0
    """Questions a day as of `at_s`: each counts less with its age, by a factor of e a day."""
    at_s: float = 0.0
    hours: dict[int, int] = {}

    def bits(self, hour: int, day: int) -> int:
        """The hour's days as seen from `day`, which is the lowest bit."""
        return (self.hours.get(hour, 0) << min(max(day - self.day, 0), DAYS)) & ((1 << DAYS) - 1)

    def rate_at(self, now: float) -> float:
        return self.rate * math.exp((self.at_s - now) / _DAY_S)


class _Trust(msgspec.Struct):
    """How many guesses of one kind there were, and how many came true."""

    guessed: float = 0.0
    right: float = 0.0


class _State(msgspec.Struct):
    """The bytes' form."""

    habits: dict[str, _Habit]
    rows: list[tuple[str, str, _Row]]
    last: dict[str, tuple[str, float]]
    trust: list[tuple[tuple[int, int], _Trust]]
    form: int = 1


_decoder = msgspec.msgpack.Decoder(_State)


class Predictor:
    """Two verbs: `asked` learns, `likely` guesses. `now` is epoch seconds; `check()` states what holds between calls."""

    def __init__(self) -> None:
        self._habits: OrderedDict[str, _Habit] = OrderedDict()
        self._rows: OrderedDict[tuple[str, str], _Row] = OrderedDict()
        self._last: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._trust: dict[tuple[int, int], _Trust] = {}
        self._at_hour: tuple[dict[str, None], ...] = tuple({} for _ in range(24))
        """The documents with a habit at each hour."""
        self._hourly: dict[int, list[tuple[Guess, _Habit]]] = {}
        """The guesses of this hour, and of the next shortly before it."""
        self._popular: dict[str, float] = {}
        """The most asked, with the logarithm of their rate at one common time: all rates fall alike, so it keeps its order."""

    def __repr__(self) -> str:
        return f"<Predictor of {len(self._habits)} documents, {len(self._rows)} with followers, {len(self._last)} tenants>"

    # --- learning

    def asked(self, tenant: str, key: str, now: float) -> None:
        """The tenant asked the document."""
        before, at_s = self._last.pop(tenant, (key, now))
        self._last[tenant] = (key, now)
        if len(self._last) > MAX_TENANTS:
            self._last.popitem(last=False)
        silent = now - at_s > PAUSE_S
        if before != key or silent:
            self._note_left(tenant, before, None if silent else key)
        self._note_habit(key, now)

    def forget(self, key: str) -> None:
        """The document is gone: it isn't guessed any more. One that was never asked is no error."""
        habit = self._habits.pop(key, None)
        self._popular.pop(key, None)
        for hour in habit.hours if habit else ():
            self._at_hour[hour].pop(key, None)

    def _note_left(self, tenant: str, before: str, follower: str | None) -> None:
        """The tenant is done with `before`; `follower` is what it asked next, None if it went away."""
        row = self._rows.setdefault((tenant, before), _Row())
        self._rows.move_to_end((tenant, before))
        if len(self._rows) > MAX_ROWS:
            self._rows.popitem(last=False)
        for guessed, times in row.times.items():
            trust = self._trust.setdefault(_kind(times, row.left), _Trust())
            trust.guessed += 1
            trust.right += guessed == follower
            if trust.guessed >= FULL_TRUST:
                trust.guessed, trust.right = trust.guessed / 2, trust.right / 2
        row.left += 1
        if follower is not None:
            if follower not in row.times and len(row.times) >= MAX_FOLLOWERS:
                del row.times[min(row.times, key=row.times.__getitem__)]
            row.times[follower] = row.times.get(follower, 0) + 1
        if row.left >= FULL_COUNT:
            row.left //= 2
            row.times = {key: times // 2 for key, times in row.times.items() if times > 1}

    def _note_habit(self, key: str, now: float) -> None:
        day, hour = int(now // _DAY_S), int(now % _DAY_S // _HOUR_S)
        habit = self._habits.get(key)
        if habit is None:
            if len(self._habits) >= MAX_DOCUMENTS:
                self.forget(next(iter(self._habits)))
            habit = self._habits[key] = _Habit(first_day=day, day=day)
        self._habits.move_to_end(key)
        if day > habit.day:
            habit.hours, habit.day = {h: bits for h in habit.hours if (bits := habit.bits(h, day))}, day
            for at_hour in self._at_hour:
                at_hour.pop(key, None)
            self._note_hours(key, habit)
        habit.hours[hour] = habit.hours.get(hour, 0) | 1
        if habit.hours[hour].bit_count() >= MIN_DAYS:
            self._at_hour[hour][key] = None
        habit.rate, habit.at_s = habit.rate_at(now) + 1, now
        self._note_popular(key, habit)

    def _note_hours(self, key: str, habit: _Habit) -> None:
        for hour, bits in habit.hours.items():
            if bits.bit_count() >= MIN_DAYS:
                self._at_hour[hour][key] = None

    def _note_popular(self, key: str, habit: _Habit) -> None:
        level = math.log(habit.rate) + habit.at_s / _DAY_S
        if key not in self._popular and len(self._popular) >= MAX_POPULAR:
            least = min(self._popular, key=self._popular.__getitem__)
            if level <= self._popular[least]:
                return
            del self._popular[least]
        self._popular[key] = level

    # --- guessing

    def likely(self, tenant: str | None, now: float, limit: int, besides: Container[str] = ()) -> tuple[Guess, ...]:
        """The likeliest documents, at most `limit`, none of `besides`: what this tenant asks next, and what anybody does.

        `tenant` None: for anybody alone. Changes nothing.
        """
        best: dict[str, Guess] = {}
        for guess in (*self._following(tenant, now, besides), *self._at_this_hour(now, besides), *self._much_asked(now, besides)):
            known = best.get(guess.key)
            if known is None or known.probability < guess.probability:
                best[guess.key] = guess
        return tuple(heapq.nlargest(limit, best.values(), key=lambda guess: guess.probability))

    def _following(self, tenant: str | None, now: float, besides: Container[str]) -> Iterator[Guess]:
        """First-order Markov chain. How often guesses so well founded came true is what counts, not the share in so few cases:
        where people ask at random, one document soon followed another "2 of 3 times"."""
        if tenant is None or tenant not in self._last:
            return
        before, at_s = self._last[tenant]
        if now - at_s > PAUSE_S:
            return
        row = self._rows.get((tenant, before), _Row())
        for key, times in row.times.items():
            if key in self._habits and key not in besides:
                trust = self._trust.get(_kind(times, row.left), _Trust())
                probability = trust.right / (trust.guessed + DOUBT)
                yield Guess(key, probability, f"followed {before} {times} of {row.left} times", SOON_S, "followed")

    def _at_this_hour(self, now: float, besides: Container[str]) -> Iterator[Guess]:
        """The share of days with a question at that hour, for what is left of the hour."""
        hours = {int(now // _HOUR_S), int((now + LEAD_S) // _HOUR_S)}
        self._hourly = {at: self._hourly[at] if at in self._hourly else self._of_hour(at) for at in hours}
        for at, habits in self._hourly.items():
            left = min(at + 1 - now / _HOUR_S, 1.0)
            for guess, habit in habits:
                if guess.key not in besides and self._habits.get(guess.key) is habit:
                    yield Guess(guess.key, guess.probability * left, guess.why, (at + 1) * _HOUR_S - now, "hour")

    def _of_hour(self, at: int) -> list[tuple[Guess, _Habit]]:
        """The strongest habits of an hour, counted from the epoch: told from the days before, they stay so until it is over."""
        day, hour = divmod(at, 24)
        found = []
        for key in self._at_hour[hour]:
            habit = self._habits[key]
            days = (habit.bits(hour, day) >> 1).bit_count()  # the day itself is not over
            known = min(day - habit.first_day, DAYS - 1)
            if days >= MIN_DAYS:
                why = f"asked around {hour:02}:00 UTC on {days} of {known} days"
                found.append((Guess(key, days / (known + 1), why), habit))
        return heapq.nlargest(MAX_HOURLY, found, key=lambda one: one[0].probability)

    def _much_asked(self, now: float, besides: Container[str]) -> Iterator[Guess]:
        for key in self._popular:
            if key not in besides:
                rate = self._habits[key].rate_at(now)
                if rate >= MIN_RATE:
                    yield Guess(key, chance(rate / _DAY_S, HORIZON_S), f"asked about {rate:.0f} times a day of late")

    # --- keeping

    def to_bytes(self) -> bytes:
        """All that was learned, MessagePack."""
        rows = [(tenant, key, row) for (tenant, key), row in self._rows.items()]
        return msgspec.msgpack.encode(_State(dict(self._habits), rows, dict(self._last), list(self._trust.items())))

    @classmethod
    def from_bytes(cls, data: bytes) -> Predictor:
        """What `to_bytes` gave. Raises ValueError for anything else."""
        try:
            state = _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise ValueError(f"not a predictor's bytes: {error}") from error
        if state.form != 1:
            raise ValueError(f"a predictor of form {state.form}; this one reads form 1")
        predictor = cls()
        predictor._habits.update(state.habits)
        predictor._rows.update(((tenant, key), row) for tenant, key, row in state.rows)
        predictor._last.update(state.last)
        predictor._trust.update(state.trust)
        for key, habit in state.habits.items():
            predictor._note_hours(key, habit)
            predictor._note_popular(key, habit)
        return predictor

    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""
        sizes = (len(self._habits), len(self._rows), len(self._last), len(self._popular))
        if any(size > bound for size, bound in zip(sizes, (MAX_DOCUMENTS, MAX_ROWS, MAX_TENANTS, MAX_POPULAR), strict=True)):
            raise AssertionError(f"more is remembered than the bounds allow: {sizes}")
        if any(len(row.times) > MAX_FOLLOWERS or sum(row.times.values()) > row.left for row in self._rows.values()):
            raise AssertionError("more followed than was left")
        if not self._habits.keys() >= {*self._popular, *(key for at_hour in self._at_hour for key in at_hour)}:
            raise AssertionError("a forgotten document is still looked through")


def _kind(times: int, left: int) -> tuple[int, int]:
    """Guesses are trusted alike that were seen as often and in as large a share of cases, in quarters."""
    return min(times, 6), 4 * times // (left + 1)
