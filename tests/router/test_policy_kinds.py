"""What each replacement policy is for, on a RAM tier that it rules; and what `check()` finds."""

from __future__ import annotations

import pytest

from router import policy_density
from router.policies import CHOICES, DEFAULT, Policy, policy
from router.policy_density import Density
from router.policy_frequency import Gdsf, Lfu
from router.policy_recency import Arc, Lru

CAPACITY = 1_000
NAMES = pytest.mark.parametrize("name", CHOICES)


class Ram:
    """A RAM tier that a policy rules. `ask` tells whether the key was there."""

    def __init__(self, ruled_by: Policy[str], capacity: int = CAPACITY) -> None:
        self.policy, self.capacity, self.held, self.now = ruled_by, capacity, dict[str, int](), 0.0

    def ask(self, key: str, size: int = 100, cost: float = 1.0, *, after: float = 1.0) -> bool:
        self.now += after
        self.policy.used(key, size, cost, self.now)
        if key in self.held:
            return True
        for victim in self.policy.victims(sum(self.held.values()) + size - self.capacity, self.now):
            del self.held[victim]
            self.policy.removed(victim)
        self.held[key] = size
        self.policy.added(key, size, cost, self.now)
        return False

    def ask_all(self, keys: str, **of: float) -> list[bool]:
        return [self.ask(key, **of) for key in keys]  # type: ignore[arg-type]


@NAMES
def test_a_policy_is_made_by_name_and_says_what_it_knows(name: str) -> None:
    ram = Ram(policy(name, CAPACITY))
    ram.ask_all("abcabd")
    assert "held" in repr(ram.policy) or "once" in repr(ram.policy)


@NAMES
def test_a_key_that_is_asked_often_is_worth_more(name: str) -> None:
    ram = Ram(policy(name, CAPACITY))
    ram.ask_all("abcdefg")
    for _ in range(20):
        ram.ask("a", after=60)
    assert ram.policy.worth("a", ram.now) > ram.policy.worth("b", ram.now) > 0
    assert ram.policy.worth("never", ram.now) == 0


def test_the_default_is_among_the_choices_and_an_unknown_name_is_an_error() -> None:
    assert CHOICES[DEFAULT].prefetch
    with pytest.raises(KeyError):
        policy("mru", CAPACITY)


def test_lru_evicts_what_was_asked_longest_ago() -> None:
    ram = Ram(Lru(300), 300)
    ram.ask_all("abcad")
    assert set(ram.held) == set("cad")


def test_lfu_keeps_what_was_asked_often_however_long_ago() -> None:
    ram = Ram(Lfu(300), 300)
    ram.ask_all("aaabcdefg")
    assert "a" in ram.held


def test_gdsf_keeps_what_is_dear_for_its_size() -> None:
    ram = Ram(Gdsf(300), 300)
    ram.ask("dear", cost=9.0)
    ram.ask_all("bcdef")
    assert "dear" in ram.held


def test_gdsf_lets_go_of_what_was_popular_once() -> None:
    ram = Ram(Gdsf(300), 300)
    ram.ask_all("aaaa")
    ram.ask_all("bcdefghi" * 3)
    assert "a" not in ram.held


def test_arc_keeps_what_was_asked_twice_through_a_scan() -> None:
    ram = Ram(Arc(400), 400)
    ram.ask_all("abab")
    ram.ask_all("123456789")
    assert {"a", "b"} <= set(ram.held)


def test_arc_gives_those_asked_once_more_room_where_their_ghosts_are_asked_and_less_where_the_others_are() -> None:
    arc: Arc[str] = Arc(400)
    ram = Ram(arc, 400)
    ram.ask_all("aabbcd")  # a and b often; c and d once
    ram.ask_all("ef")  # c and d become ghosts
    assert not ram.ask("c")
    assert arc._target_bytes == 100
    ram.ask("g")  # those asked once have no more than their target now: a leaves
    assert not ram.ask("a")
    assert arc._target_bytes == 0
    arc.check()


def test_arc_forgets_ghosts_beyond_its_bounds() -> None:
    arc: Arc[str] = Arc(400)
    ram = Ram(arc, 400)
    for number in range(60):
        ram.ask(str(number % 17))
        ram.ask(str(number % 5))
    arc.check()
    assert sum(queue.size_bytes for queue in arc._queues) <= 800


def test_density_keeps_what_recurs_through_a_scan() -> None:
    ram = Ram(Density(400), 400)
    for _ in range(5):
        ram.ask_all("abc", after=60.0)
    for number in range(50):
        ram.ask(f"scanned {number}")
    assert set("abc") <= set(ram.held)


def test_density_learns_that_a_document_is_done_with_after_a_burst() -> None:
    """Four questions, ten seconds apart, and never again: of two equals the one that is in its burst stays."""
    ram = Ram(Density(400), 400)
    for number in range(3_600):
        for _ in range(4):
            ram.ask(f"burst {number}", after=10.0)
    assert ram.policy.victims(400, ram.now)[-1] == "burst 3599"
    assert ram.policy.worth("burst 3590", ram.now) < ram.policy.worth("burst 3599", ram.now) / 4


def test_density_carries_what_was_learned_over_to_a_new_version() -> None:
    density: Density[str] = Density(CAPACITY)
    for at in range(10):
        density.used("old", 100, 1.0, float(at))
    density.added("old", 100, 1.0, 10.0)
    worth = density.worth("old", 10.0)
    density.replaced("old", "new")
    assert (density.worth("old", 10.0), density.worth("new", 10.0)) == (0, worth)
    assert density.victims(1, 10.0) == ()  # the new one is not in RAM yet
    density.replaced("unknown", "other")
    density.check()


def test_density_evicts_what_was_read_and_never_asked_before_what_was_asked() -> None:
    density: Density[str] = Density(CAPACITY)
    density.used("asked", 100, 1.0, 0.0)
    density.added("asked", 100, 1.0, 0.0)
    density.added("read", 100, 1.0, 1.0)
    assert density.victims(100, 2.0) == ("read",)


def test_density_remembers_so_many_keys_and_those_in_ram_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_density, "MAX_KEYS", 300)
    density: Density[int] = Density(CAPACITY)
    for number in range(3):
        density.added(number, 10, 1.0, 0.0)
    for number in range(10_000, 11_000):
        density.used(number, 10, 1.0, float(number))
    assert len(density._rows) == 300
    assert {0, 1, 2} <= set(density._rows)
    density.check()


def test_density_keeps_all_that_is_in_ram_beyond_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_density, "MAX_KEYS", 3)
    density: Density[int] = Density(CAPACITY)
    for number in range(5):
        density.added(number, 10, 1.0, 0.0)
    assert len(density.victims(50, 1.0)) == 5


@NAMES
def test_a_damaged_policy_does_not_check(name: str) -> None:
    """Whatever it keeps of a key in two places."""
    ram = Ram(policy(name, CAPACITY))
    ram.ask_all("abca")
    match ram.policy:
        case Lru():
            ram.policy._held.move_to_end("b")
        case Lfu() | Gdsf():
            ram.policy._order.drop("a")
            ram.policy._order.place("a", 7)
            ram.policy._order.drop("b" if isinstance(ram.policy, Gdsf) else "z")
        case Arc():
            ram.policy._once.size_bytes += 1
        case Density():
            ram.policy._keys[ram.policy._rows["a"]] = "b"
    with pytest.raises(AssertionError):
        ram.policy.check()


def test_an_arc_with_a_key_in_two_queues_or_an_impossible_target_does_not_check() -> None:
    arc: Arc[str] = Arc(CAPACITY)
    arc.added("a", 1, 1.0, 0.0)
    arc._often.append("a", arc._once.held["a"])
    with pytest.raises(AssertionError, match="two queues"):
        arc.check()
    arc._often.pop("a")
    arc._target_bytes = -1.0
    with pytest.raises(AssertionError, match="target"):
        arc.check()


def test_a_density_with_a_row_that_is_lost_or_held_while_free_does_not_check() -> None:
    density: Density[str] = Density(CAPACITY)
    density.added("a", 1, 1.0, 0.0)
    row = density._free.pop()
    with pytest.raises(AssertionError, match="neither"):
        density.check()
    density._free.append(row)
    density._held[row] = True
    with pytest.raises(AssertionError, match="free row"):
        density.check()
