"""What is used, counted: taken together or not at all, given back where it was taken, against a plain list of what happened."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from router.counts import FORGET_AT_LEAST, Counts
from router.limits import Charge, Used, Window, minute

START = 1_700_000_000.0
ACCOUNTS = {"requests/a": 5, "tokens/a": 40, "tokens/b": 15, "budget/day/a": 60}


def window_of(account: str, now: float) -> Window:
    if not account.startswith("budget"):
        return minute(now)
    day = math.floor(now / 86400)
    return Window(day, day * 86400.0, (day + 1) * 86400.0, sliding=False)


@dataclass
class Held:
    """What one question took of each account, and when."""

    amounts: dict[str, int]
    at: float
    charges: list[Charge]


class Questions(RuleBasedStateMachine):
    """Reserve, settle, refund and cancel, in any order and over any time; the model keeps every amount that still stands."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.now = START
        self.stands: list[tuple[str, float, int]] = []

    def used(self, account: str) -> int:
        """By the model: what was taken in the window of now, and the share of the one before that is not over."""
        window = window_of(account, self.now)
        taken = [(window_of(name, at).number, amount) for name, at, amount in self.stands if name == account]
        current = sum(amount for number, amount in taken if number == window.number)
        before = sum(amount for number, amount in taken if number == window.number - 1) if window.sliding else 0
        return current + (math.ceil(before * window.share_before(self.now) - 1e-6) if before else 0)

    @rule(seconds=st.sampled_from([0.0, 0.4, 7.0, 29.0, 60.0, 61.0, 500.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=held, amounts=st.dictionaries(st.sampled_from(sorted(ACCOUNTS)), st.integers(0, 30), min_size=1))
    def reserve(self, amounts: dict[str, int]) -> Held:
        charges = [Charge(name, ACCOUNTS[name], amount, window_of(name, self.now)) for name, amount in amounts.items()]
        full = [name for name, amount in amounts.items() if amount and self.used(name) + amount > ACCOUNTS[name]]
        taken = self.counts.take(charges, self.now)
        assert (taken.refused is None) == (not full)
        if taken.refused is not None:
            assert charges[taken.refused].account == full[0]
            return Held({}, self.now, [])
        self.stands += [(name, self.now, amount) for name, amount in amounts.items()]
        for charge, used in zip(charges, taken.used, strict=True):
            assert used.measured(charge.window, self.now) == self.used(charge.account)
        return Held(dict(amounts), self.now, charges)

    @rule(one=consumes(held), share=st.sampled_from([0.0, 0.3, 1.0, 1.5]))
    def settle(self, one: Held, share: float) -> None:
        """Less was needed, or nothing (a refund), or more than was thought."""
        back = []
        for charge in one.charges:
            needed = round(charge.amount * share)
            self.stands.remove((charge.account, one.at, charge.amount))
            self.stands.append((charge.account, one.at, needed))
            back.append(Charge(charge.account, charge.limit, charge.amount - needed, charge.window))
        self.counts.give(back)

    @invariant()
    def counts_are_what_happened(self) -> None:
        for account in ACCOUNTS:
            window = window_of(account, self.now)
            used = self.counts.used(account, window)
            assert used.measured(window, self.now) == self.used(account)
            assert min(used.current, used.before) >= 0

    @invariant()
    def what_is_saved_is_loaded(self) -> None:
        loaded = Counts()
        loaded.load(self.counts.saved("budget/"), {name: window_of(name, self.now) for name in ACCOUNTS})
        day = window_of("budget/day/a", self.now)
        assert loaded.used("budget/day/a", day) == self.counts.used("budget/day/a", day)


TestQuestions = Questions.TestCase


def test_where_one_has_no_room_the_others_are_not_charged() -> None:
    counts, window = Counts(), minute(START)
    charges = [Charge("a", 10, 5, window), Charge("b", 4, 5, window)]
    assert counts.take(charges, START).refused == 1
    assert counts.used("a", window) == counts.used("b", window) == Used()


def test_a_clock_that_is_put_back_forgets_nothing() -> None:
    counts = Counts()
    counts.take([Charge("a", 10, 9, minute(START))], START)
    earlier = START - 120
    assert counts.take([Charge("a", 10, 2, minute(earlier))], earlier).refused == 0


def test_accounts_that_are_long_idle_are_forgotten() -> None:
    counts = Counts()
    for number in range(FORGET_AT_LEAST):
        counts.take([Charge(f"a{number}", 1, 1, minute(START))], START)
    assert repr(counts) == f"<Counts of {FORGET_AT_LEAST} accounts>"
    later = START + 3600
    counts.take([Charge("new", 1, 1, minute(later))], later)
    assert repr(counts) == "<Counts of 1 accounts>"
