"""The prefetch planner: pins first, worth more than what it pushes out, bounded, and never twice in vain."""

from __future__ import annotations

import msgspec
import pytest

from router import promotions
from router.candidates import Candidate, Promotion, Snapshot
from router.policy_order import HORIZON_S
from router.policy_recency import Lru
from router.promotions import COOLDOWN_S, Promotions

CAPACITY = 1_000


def candidate(key: str, size: int = 15, *, probability: float = 0.9, pinned: bool = False, why: str = "likely") -> Candidate[str]:
    """Each of a kind of its own."""
    return Candidate(key, size, restore_s=1.0, probability=probability, why=why, pinned=pinned, kind=key)


class Ram:
    """A RAM tier and its planner. Everything in it was asked a day ago and is worth little, unless `ask`ed since."""

    def __init__(self, **held: int) -> None:
        self.promotions, self.policy, self.now = Promotions[str](), Lru[str](CAPACITY), 1e6
        self.held = held
        for key, size in held.items():
            self.policy.added(key, size, 1.0, self.now - 86_400)

    def plan(
        self, *candidates: Candidate[str], exempt: frozenset[str] = frozenset(), waiting: bool = False
    ) -> tuple[Promotion[str], ...]:
        return self.promotions.plan(self.snapshot(*candidates, exempt=exempt, waiting=waiting), self.policy, self.now)

    def snapshot(self, *candidates: Candidate[str], exempt: frozenset[str] = frozenset(), waiting: bool = False) -> Snapshot[str]:
        return Snapshot(candidates, self.held, sum(self.held.values()), CAPACITY, exempt, waiting)

    def keys(self, *candidates: Candidate[str], exempt: frozenset[str] = frozenset()) -> list[str]:
        return [plan.key for plan in self.plan(*candidates, exempt=exempt)]

    def promote(self, *candidates: Candidate[str]) -> tuple[Promotion[str], ...]:
        """All that is planned, from beginning to end."""
        plans = self.plan(*candidates)
        for plan in plans:
            self.promotions.started(plan, self.now)
            for victim in plan.evict:
                self.evict(victim)
            self.promotions.finished(plan.key, self.now)
            self.held[plan.key] = self.held.get(plan.key, 0) + plan.size_bytes
            self.policy.added(plan.key, self.held[plan.key], 1.0, self.now)
        return plans

    def evict(self, key: str) -> bool:
        del self.held[key]
        self.policy.removed(key)
        return self.promotions.evicted(key, self.now)


def test_a_likely_document_is_brought_into_free_room() -> None:
    assert Ram().plan(candidate("a", why="followed b 7 of 9 times")) == (
        Promotion("a", 15, 1.0, (), "followed b 7 of 9 times", kind="a", chance=0.9),
    )


def test_nothing_is_brought_while_live_traffic_waits() -> None:
    assert Ram().plan(candidate("a", pinned=True), waiting=True) == ()


def test_an_unlikely_document_is_not_brought() -> None:
    assert Ram().plan(candidate("a", probability=0.1)) == ()


def test_what_is_in_ram_is_not_brought() -> None:
    assert Ram(a=15).plan(candidate("a")) == ()


def test_what_is_in_ram_in_part_is_completed_and_its_part_is_not_pushed_out_for_it() -> None:
    ram = Ram(a=5, rest=990)
    (plan,) = ram.plan(candidate("a", 15))
    assert (plan.size_bytes, plan.evict) == (10, ("rest",))


def test_pins_come_first_then_the_likeliest() -> None:
    assert Ram().keys(candidate("b", 5, probability=0.5), candidate("a", 5), candidate("pin", 5, probability=0.0, pinned=True)) == [
        *("pin", "a", "b")
    ]


def test_a_pinned_document_pushes_out_what_is_worth_more_but_nothing_exempt() -> None:
    ram = Ram(old=990)
    ram.policy.used("old", 990, 1.0, ram.now)
    assert ram.plan(candidate("a")) == ()
    assert ram.plan(candidate("a", pinned=True))[0].evict == ("old",)
    assert ram.plan(candidate("a", pinned=True), exempt=frozenset({"old"})) == ()


def test_a_guess_must_be_worth_more_than_what_it_pushes_out_by_a_factor() -> None:
    ram = Ram(old=990)
    worth = ram.policy.worth("old", ram.now)
    assert ram.plan(candidate("a", probability=max(worth * promotions.FACTOR, 0.15) + 1e-6))[0].evict == ("old",)
    ram.policy.used("old", 990, 1.0, ram.now - 2 * HORIZON_S)
    worth = ram.policy.worth("old", ram.now)
    assert ram.plan(candidate("a", probability=worth * promotions.FACTOR - 1e-6)) == ()
    assert ram.plan(candidate("a", probability=worth * promotions.FACTOR + 1e-6))[0].evict == ("old",)


def test_bytes_in_flight_are_bounded_but_for_one_however_large() -> None:
    ram = Ram()
    assert ram.keys(candidate("a", 12), candidate("b", 12), candidate("c", 3)) == ["a"]
    assert ram.keys(candidate("a", 500)) == ["a"]
    ram.promotions.started(ram.plan(candidate("a", 12))[0], ram.now)
    assert (ram.promotions.in_flight_bytes, ram.promotions.in_flight("a")) == (12, True)
    assert ram.promotions.in_grace("a", ram.now)
    assert ram.keys(candidate("a", 12), candidate("b", 12)) == []
    assert ram.keys(candidate("c", 8)) == ["c"]


def test_what_leaves_for_one_under_way_is_counted_as_gone_until_that_is_told() -> None:
    ram = Ram(old=10, older=980)
    (plan,) = ram.plan(candidate("a", 12, pinned=True))
    assert plan.evict == ("old",)
    ram.promotions.started(plan, ram.now)
    (other,) = ram.plan(candidate("b", 8, pinned=True))
    assert other.evict == ()  # 10 leave, 12 and 8 come
    ram.promotions.failed("a", ram.now)
    assert ram.plan(candidate("b", 8, pinned=True)) == (other,)
    ram.promotions.check()


def test_within_a_window_only_so_much_is_pushed_out() -> None:
    ram = Ram(**{f"old{number}": 10 for number in range(100)})
    promoted = []
    for number in range(100):
        promoted += ram.promote(candidate(f"new{number}", 10))
    assert sum(plan.size_bytes for plan in promoted) == promotions.PUSHED_SHARE * CAPACITY
    assert ram.plan(candidate("pin", 10, pinned=True))
    ram.now += HORIZON_S
    assert ram.promote(candidate("new", 10))


def test_one_version_is_pushed_in_within_a_window_however_large() -> None:
    ram = Ram(**{f"old{number}": 100 for number in range(10)})
    (plan,) = ram.promote(candidate("large", 500))
    assert plan.size_bytes == 500 > promotions.PUSHED_SHARE * CAPACITY
    assert ram.plan(candidate("next", 10)) == ()
    ram.now += HORIZON_S
    assert ram.plan(candidate("next", 10))


def test_what_leaves_ram_for_no_other_does_not_say_how_soon_ram_is_renewed() -> None:
    ram = Ram(old=900)
    before = ram.promotions.horizon_s(ram.snapshot(), ram.now)
    for number in range(100):
        assert not ram.promotions.left(f"other{number}", ram.now)
    assert ram.promotions.horizon_s(ram.snapshot(), ram.now) == before
    ram.promotions.evicted("another", ram.now)
    assert ram.promotions.horizon_s(ram.snapshot(), ram.now) < before


def test_what_was_promoted_and_left_unasked_was_in_vain_but_not_where_all_ram_was_lost() -> None:
    ram = Ram()
    ram.promote(candidate("a"))
    ram.promote(candidate("b"))
    assert ram.promotions.left("a", ram.now)
    ram.promotions.forget("b")
    assert not ram.promotions.left("b", ram.now)
    ram.held.clear()
    assert ram.keys(candidate("a")) == []
    assert ram.keys(candidate("b")) == ["b"]


def test_free_room_is_filled_without_regard_to_the_window() -> None:
    ram = Ram()
    for number in range(90):
        ram.promote(candidate(f"new{number}", 10))
    assert sum(ram.held.values()) == 900


def test_what_was_promoted_and_evicted_unasked_is_not_promoted_again_for_hours() -> None:
    ram = Ram()
    ram.promote(candidate("a"))
    assert ram.evict("a")
    assert ram.plan(candidate("a")) == ()
    assert ram.keys(candidate("a", pinned=True)) == ["a"]
    ram.now += COOLDOWN_S
    assert ram.keys(candidate("a")) == ["a"]
    ram.promote(candidate("b"))  # what cooled down is forgotten meanwhile
    assert repr(ram.promotions) == "<Promotions 0 in flight, 1 not asked yet, 0 in vain>"


def test_what_was_asked_may_be_promoted_again() -> None:
    ram = Ram()
    ram.promote(candidate("a"))
    assert ram.promotions.used("a")
    assert not ram.promotions.used("a")
    assert not ram.evict("a")
    assert ram.keys(candidate("a")) == ["a"]


def test_what_could_not_be_restored_is_not_tried_again_for_hours() -> None:
    ram = Ram()
    ram.promotions.started(ram.plan(candidate("a"))[0], ram.now)
    ram.promotions.failed("a", ram.now)
    assert (ram.plan(candidate("a")), ram.promotions.in_flight_bytes) == ((), 0)
    ram.promotions.forget("a")
    assert ram.keys(candidate("a")) == ["a"]


def test_what_was_promoted_is_left_in_peace_until_it_had_its_chance() -> None:
    ram = Ram(rest=960)
    ram.promote(candidate("a", 20), candidate("b", 20))
    ram.promote(candidate("b", 20))
    assert ram.plan(candidate("c", 20, pinned=True))[0].evict == ("rest",)
    assert ram.plan(candidate("c", 20, pinned=True), exempt=frozenset({"rest"})) == ()
    ram.now += HORIZON_S
    assert ram.plan(candidate("c", 20, pinned=True), exempt=frozenset({"rest"}))[0].evict == ("a",)


def test_what_is_not_in_ram_as_the_policy_believes_frees_nothing() -> None:
    ram = Ram(ghost=500, rest=500)
    del ram.held["ghost"]
    ram.held["unknown"] = 500
    assert ram.plan(candidate("a")) == ()


def test_a_kind_of_guess_that_rarely_comes_true_is_trusted_less_and_in_time_again() -> None:
    ram = Ram()
    for number in range(40):
        ram.promote(msgspec.structs.replace(candidate(str(number)), kind="hunch"))
        ram.evict(str(number))
    assert ram.promotions.trust("hunch", ram.now) < 0.3
    assert ram.promotions.trust("other", ram.now) == 1
    assert ram.plan(msgspec.structs.replace(candidate("a", probability=0.5), kind="hunch")) == ()
    ram.now += 5 * 86_400
    assert ram.promotions.trust("hunch", ram.now) > 0.9


def test_a_kind_of_guess_that_comes_true_is_trusted() -> None:
    ram = Ram()
    for number in range(40):
        ram.promote(msgspec.structs.replace(candidate(str(number), probability=0.5), kind="hunch"))
        ram.promotions.used(str(number))
    assert ram.promotions.trust("hunch", ram.now) == 1


def test_what_is_likely_within_an_hour_is_less_so_before_a_small_ram_is_renewed() -> None:
    """All of RAM left within ten minutes: six such times make an hour."""
    ram = Ram(**{f"old{number}": 10 for number in range(100)})
    for number in range(1_000):
        ram.now += 6
        ram.promotions.evicted(f"other{number}", ram.now)
    assert ram.promotions.horizon_s(ram.snapshot(), ram.now) == pytest.approx(600, rel=0.02)
    assert ram.plan(candidate("a", 10, probability=0.5)) == ()
    (plan,) = ram.plan(candidate("a", 10, probability=0.9))
    assert plan.chance == pytest.approx(1 - 0.1 ** (1 / 6), rel=0.02)
    assert plan.grace_s == pytest.approx(600, rel=0.02)
    (soon,) = ram.plan(msgspec.structs.replace(candidate("a", 10, probability=0.5), within_s=60.0))
    assert (soon.chance, soon.grace_s) == (0.5, 60.0)


def test_the_last_tenth_of_ram_is_no_free_room() -> None:
    ram = Ram(old=920)
    ram.policy.used("old", 920, 1.0, ram.now)
    assert ram.plan(candidate("a")) == ()
    assert ram.plan(candidate("a", pinned=True))[0].pushes


def test_a_promotion_is_started_once() -> None:
    ram = Ram()
    (plan,) = ram.plan(candidate("a"))
    ram.promotions.started(plan, ram.now)
    with pytest.raises(ValueError, match="already"):
        ram.promotions.started(plan, ram.now)
    with pytest.raises(KeyError):
        ram.promotions.finished("b", ram.now)


def test_damaged_promotions_do_not_check() -> None:
    ram = Ram()
    ram.promote(candidate("a"))
    ram.promotions._pushed.extend([(2.0, 1), (1.0, 1)])
    with pytest.raises(AssertionError, match="order"):
        ram.promotions.check()
    ram.promotions._vain["a"] = 0.0
    with pytest.raises(AssertionError, match="two states"):
        ram.promotions.check()
    ram.promotions._leaving.add("b")
    with pytest.raises(AssertionError, match="leaves"):
        ram.promotions.check()
