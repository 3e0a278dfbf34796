"""Planning where an owner may take no more than a share of RAM: its own are pushed out for it, and never in a circle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.candidates import Candidate, Promotion, Snapshot
from router.policy_recency import Lru
from router.promotions import Promotions
from router.shares import Share, own_victims

CAPACITY = 1_000
NOW = 1e6


def candidate(key: str, size: int, *, probability: float = 0.9, pinned: bool = False) -> Candidate[str]:
    """The owner is the key's first letter."""
    return Candidate(key, size, restore_s=1.0, probability=probability, pinned=pinned, owner=key[0])


class Of:
    def __init__(self, owner: str) -> None:
        self._owner = owner

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key[0] == self._owner


class Ram:
    """Everything in it was asked a day ago, in this order. `a` may take so many bytes."""

    def __init__(self, limit: int, **held: int) -> None:
        self.limit, self.held = limit, held
        self.promotions, self.policy = Promotions[str](), Lru[str](CAPACITY)
        for key, size in held.items():
            self.policy.added(key, size, 1.0, NOW - 86_400)

    def share(self) -> Share:
        return Share(Of("a"), self.limit - sum(size for key, size in self.held.items() if key[0] == "a"))

    def plan(self, *candidates: Candidate[str], exempt: frozenset[str] = frozenset()) -> tuple[Promotion[str], ...]:
        used = sum(self.held.values())
        snapshot = Snapshot(candidates, self.held, used, CAPACITY, exempt, shares={"a": self.share()})
        return self.promotions.plan(snapshot, self.policy, NOW)

    def planned(self, *candidates: Candidate[str], exempt: frozenset[str] = frozenset()) -> list[tuple[str, tuple[str, ...]]]:
        return [(one.key, one.evict) for one in self.plan(*candidates, exempt=exempt)]


def test_beyond_its_share_an_owners_own_leave_though_ram_has_room_and_others_were_asked_before() -> None:
    ram = Ram(100, b1=50, a1=50, a2=50)
    assert ram.planned(candidate("a3", 10)) == [("a3", ("a1",))]
    assert ram.planned(candidate("b2", 10)) == [("b2", ())]
    assert ram.plan(candidate("a3", 10))[0].pushes


def test_a_guess_must_be_worth_more_than_what_of_its_owner_it_pushes_out() -> None:
    ram = Ram(100, b1=50, a1=100)
    ram.policy.used("a1", 100, 1.0, NOW)
    assert ram.planned(candidate("a2", 10)) == []
    assert ram.planned(candidate("a2", 10, pinned=True)) == [("a2", ("a1",))]


def test_what_is_larger_than_the_share_is_not_brought_be_it_pinned() -> None:
    ram = Ram(100, a1=50)
    assert ram.planned(candidate("a2", 101, pinned=True)) == []
    assert ram.planned(candidate("a2", 60, pinned=True), exempt=frozenset({"a1"})) == []
    assert ram.planned(candidate("a2", 50, pinned=True), exempt=frozenset({"a1"})) == [("a2", ())]
    assert Ram(100, a1=90, a2=90).planned(candidate("a3", 101), candidate("b1", 10)) == [("b1", ())]


def test_of_two_that_fit_alone_one_is_brought_and_what_is_on_the_way_counts() -> None:
    ram = Ram(20)
    [plan] = ram.plan(candidate("a1", 15), candidate("a2", 15))
    assert (plan.key, plan.evict) == ("a1", ())
    ram.promotions.started(plan, NOW)
    ram.held["a1"] = 0
    assert ram.planned(candidate("a2", 6)) == []
    assert ram.planned(candidate("a2", 5)) == [("a2", ())]


def test_what_leaves_for_one_under_way_makes_room_once() -> None:
    ram = Ram(20, a1=18)
    [plan] = ram.plan(candidate("a2", 10))
    assert plan.evict == ("a1",)
    ram.promotions.started(plan, NOW)
    assert ram.planned(candidate("a3", 10)) == [("a3", ())]
    assert ram.planned(candidate("a3", 11)) == []


def test_the_rest_of_the_room_is_made_by_whoever_is_worth_least() -> None:
    ram = Ram(100, b1=500, a1=100, b2=395)
    assert ram.planned(candidate("a2", 100)) == [("a2", ("a1",))]
    ram = Ram(100, b1=500, a1=10, b2=490)
    assert ram.planned(candidate("a2", 95)) == [("a2", ("a1", "b1"))]


sizes = st.integers(1, 60)
owned = st.builds(lambda owner, number: f"{owner}{number}", st.sampled_from("ab"), st.integers(0, 9))


@given(
    limit=st.integers(1, 200),
    held=st.dictionaries(owned, sizes, max_size=8),
    wanted=st.dictionaries(owned, st.tuples(sizes, st.booleans()), max_size=6),
    exempt=st.frozensets(owned, max_size=4),
)
def test_whatever_is_planned_the_share_holds_and_nobody_else_pays_for_it(
    limit: int, held: dict[str, int], wanted: dict[str, tuple[int, bool]], exempt: frozenset[str]
) -> None:
    ram = Ram(limit, **held)
    candidates = [candidate(key, size, pinned=pinned) for key, (size, pinned) in wanted.items()]
    plans = ram.plan(*candidates, exempt=exempt)
    gone = {victim for plan in plans for victim in plan.evict}
    assert not gone & exempt
    assert all(victim[0] == "a" for victim in gone), "RAM has room for all of them"
    assert not any(plan.evict for plan in plans if plan.key[0] == "b")
    if any(plan.key[0] == "a" for plan in plans):
        after = sum(size for key, size in held.items() if key[0] == "a" and key not in gone)
        assert after + sum(plan.size_bytes for plan in plans if plan.key[0] == "a") <= limit


@given(
    held=st.dictionaries(owned, sizes, max_size=10),
    limit=st.integers(0, 400),
    need=st.integers(0, 300),
    exempt=st.frozensets(owned, max_size=5),
)
def test_what_leaves_is_the_owners_own_enough_and_none_of_it_needless(
    held: dict[str, int], limit: int, need: int, exempt: frozenset[str]
) -> None:
    ram = Ram(limit, **held)
    share = ram.share()
    leaving = own_victims(share, need, ram.policy, NOW, exempt)
    may_go = {key: size for key, size in held.items() if key[0] == "a" and key not in exempt}
    assert may_go.keys() >= set(leaving)
    room = share.room_bytes + sum(held[key] for key in leaving)
    if leaving:
        assert room >= need
        assert all(room - held[key] < need for key in leaving)
    else:
        assert share.room_bytes >= need or share.room_bytes + sum(may_go.values()) < need
