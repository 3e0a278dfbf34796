"""The rules of limits: how a minute slides, when there is room again, whose limits are tighter."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.limits import (
    UNLIMITED,
    Charge,
    Limits,
    Rates,
    Standing,
    Used,
    Window,
    duration,
    minute,
    over,
    standing,
    tightest,
)

AMOUNTS = st.integers(0, 300)
TIMES = st.floats(1.7e9, 1.7e9 + 300)


def test_a_tenants_own_limits_stand_in_the_place_of_the_defaults() -> None:
    defaults = Limits(requests_per_minute=60, streams=3, weight=2.0, documents=0)
    assert over(defaults, Limits(streams=9, token_budget=5)) == Limits(
        requests_per_minute=60, streams=9, token_budget=5, weight=2.0, documents=0
    )
    assert over(UNLIMITED, UNLIMITED) == UNLIMITED
    assert over(defaults, Limits(requests_per_minute=0)).requests_per_minute == 0


@pytest.mark.parametrize(
    ("limits", "rated"),
    [
        (Rates(), False),
        (Limits(documents=3, disk_gib=1.0, ram_gib=1.0), False),
        (Rates(budget_period="day"), False),
        (Rates(requests_per_minute=0), True),
        (Rates(streams=0), True),
        (Rates(tokens_per_minute=0), True),
        (Rates(token_budget=0), True),
    ],
)
def test_what_is_not_limited_is_known_at_once(limits: Rates, rated: bool) -> None:
    assert limits.rated == rated


def test_the_last_minute_counts_with_what_of_it_is_not_over() -> None:
    window = minute(125.0)
    assert (window.number, window.start, window.end) == (2, 120.0, 180.0)
    used = Used(current=1, before=10)
    assert used.measured(window, 120.0) == 11
    assert used.measured(window, 150.0) == 6
    assert used.measured(window, 150.1) == 6, "in doubt it is more"
    assert used.measured(window, 179.9) == 2
    assert used.measured(window, 180.0) == 1
    day = Window(1, 0.0, 86400.0, sliding=False)
    assert used.measured(day, 5.0) == 1


def test_when_there_is_room_again() -> None:
    window = minute(120.0)

    def wait_s(limit: int, amount: int, current: int, before: int, now: float) -> float | None:
        return Used(current, before).wait_s(Charge("a", limit, amount, window), now)

    assert wait_s(10, 11, 0, 0, 120.0) is None
    assert wait_s(10, 10, 0, 0, 120.0) == 0
    assert wait_s(10, 1, 0, 10, 120.0) == pytest.approx(6)
    assert wait_s(10, 10, 0, 10, 130.0) == pytest.approx(50)
    assert wait_s(10, 1, 10, 0, 150.0) == pytest.approx(36)
    assert wait_s(10, 10, 10, 0, 150.0) == pytest.approx(90)
    day = Charge("a", 10, 1, Window(1, 0.0, 86400.0, sliding=False))
    assert Used(10, 99).wait_s(day, 86000.0) == 400
    assert Used(9, 99).wait_s(day, 86000.0) == 0


@given(limit=AMOUNTS, amount=st.integers(1, 300), current=AMOUNTS, before=AMOUNTS, now=TIMES)
def test_after_the_wait_there_is_room_and_not_much_earlier(limit: int, amount: int, current: int, before: int, now: float) -> None:
    window, used = minute(now), Used(current, before)
    charge = Charge("a", limit, amount, window)
    wait_s = used.wait_s(charge, now)
    if wait_s is None:
        assert amount > limit
        return
    assert (wait_s == 0) == (not used.refuses(charge, now))

    def refused(at: float) -> bool:
        later = minute(at)
        seen = {0: used, 1: Used(0, current)}.get(later.number - window.number, Used())
        return seen.refuses(Charge("a", limit, amount, later), at)

    assert not refused(now + wait_s + 1e-3)
    if wait_s > 0.01:
        assert refused(now + wait_s - 0.01)


@given(current=AMOUNTS, before=AMOUNTS, now=TIMES)
def test_after_the_reset_nothing_counts(current: int, before: int, now: float) -> None:
    used, window = Used(current, before), minute(now)
    reset_s = used.reset_s(window, now)
    assert (reset_s == 0) == (not current and not before)
    later = minute(now + reset_s + 1e-3)
    seen = {0: used, 1: Used(0, current)}.get(later.number - window.number, Used())
    assert seen.measured(later, now + reset_s + 1e-3) == 0


def test_the_tighter_of_two_is_the_one_with_less_left() -> None:
    tenant, key = Standing(100, 20, 1.0), Standing(10, 5, 2.0)
    assert tightest([tenant, key]) == key
    assert tightest([Standing(100, 3, 1.0), key]) == Standing(100, 3, 1.0)
    assert tightest([]) is None
    assert standing(Charge("a", 10, 0, minute(60.0)), Used(4, 0), 60.0) == Standing(10, 6, 120.0)
    assert standing(Charge("a", 3, 0, minute(60.0)), Used(4, 0), 60.0).left == 0


@given(st.floats(0, 1e6))
def test_durations_are_written_as_clients_read_them(seconds: float) -> None:
    text = duration(seconds)
    read_s = 0.0
    rest = text.replace("ms", "!")
    for unit, factor in (("h", 3600.0), ("m", 60.0), ("s", 1.0), ("!", 0.001)):
        if unit in rest:
            number, _, rest = rest.partition(unit)
            read_s += float(number) * factor
    assert rest == ""
    assert math.isclose(read_s, seconds, abs_tol=1.0 if seconds >= 60 else 0.002)
