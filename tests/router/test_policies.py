"""Replacement policies: one contract for all, against a model that only knows what is in RAM; and the orders they take from."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.policies import CHOICES, Policy, policy
from router.policy_order import Ranking, take

CAPACITY = 1_000
KEYS = st.sampled_from("abcdefgh")
SIZES = st.integers(1, 400)
COSTS = st.floats(0.01, 30)
NAMES = pytest.mark.parametrize("name", CHOICES)


class PolicyMachine(RuleBasedStateMachine):
    """All policies at once, told the same: they differ in what they would evict, not in what is in RAM."""

    def __init__(self) -> None:
        super().__init__()
        self.policies = {name: policy(name, CAPACITY) for name in CHOICES}
        self.held: dict[str, int] = {}
        self.costs: dict[str, float] = {}
        self.now = 0.0

    def tell(self, of: Callable[[Policy[str]], None]) -> None:
        for each in self.policies.values():
            of(each)

    @rule(key=KEYS, size=SIZES, cost=COSTS, passed=st.sampled_from([0.0, 1.0, 90.0, 1e5]))
    def question(self, key: str, size: int, cost: float, passed: float) -> None:
        self.now += passed
        size = self.held.get(key, size)
        self.costs[key] = cost
        self.tell(lambda each: each.used(key, size, cost, self.now))

    @rule(key=KEYS, size=SIZES, cost=COSTS)
    def arrival(self, key: str, size: int, cost: float) -> None:
        self.costs[key] = cost
        self.held[key] = size
        self.tell(lambda each: each.added(key, size, cost, self.now))

    @rule(key=KEYS)
    def eviction(self, key: str) -> None:
        self.held.pop(key, None)
        self.tell(lambda each: each.removed(key))

    @rule(key=KEYS)
    def deletion(self, key: str) -> None:
        self.held.pop(key, None)
        self.costs.pop(key, None)
        self.tell(lambda each: each.forget(key))
        assert all(each.worth(key, self.now) == 0 for each in self.policies.values())

    @rule(old=KEYS, new=KEYS)
    def new_version(self, old: str, new: str) -> None:
        if old != new and new not in self.held:
            self.held.pop(old, None)
            self.costs[new] = max(self.costs.get(new, 0.0), self.costs.pop(old, 0.0))
            self.tell(lambda each: each.replaced(old, new))

    @rule(need=st.integers(-5, 1_500), exempt=st.frozensets(KEYS, max_size=4))
    def room_is_needed(self, need: int, exempt: frozenset[str]) -> None:
        evictable = {key: size for key, size in self.held.items() if key not in exempt}
        for each in self.policies.values():
            victims = each.victims(need, self.now, exempt)
            assert victims == each.victims(need, self.now, exempt)
            if need <= 0 or sum(evictable.values()) < need:
                assert victims == ()
                continue
            assert len(set(victims)) == len(victims)
            freed = sum(evictable[victim] for victim in victims)
            assert freed >= need > freed - min(evictable[victim] for victim in victims)

    @invariant()
    def worth_is_within_the_cost(self) -> None:
        for key, each in itertools.product("abcdefgh", self.policies.values()):
            assert 0 <= each.worth(key, self.now) <= self.costs.get(key, 0.0) + 1e-9

    @invariant()
    def all_check(self) -> None:
        self.tell(lambda each: each.check())


PolicyMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30)
TestPolicies = PolicyMachine.TestCase


@settings(max_examples=200)
@given(sizes=st.lists(st.integers(1, 50), max_size=12), need=st.integers(0, 400))
def test_no_victim_could_be_spared(sizes: list[int], need: int) -> None:
    taken = take(enumerate(sizes), need, exempt={1})
    freed = [sizes[key] for key in taken]
    assert 1 not in taken
    assert list(taken) == sorted(taken)
    if taken:
        assert sum(freed) >= need > sum(freed) - min(freed)


def test_a_small_victim_that_a_large_one_makes_needless_stays() -> None:
    assert take([("small", 10), ("large", 100), ("next", 100)], 90, ()) == ("large",)


class RankingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ranking, self.model, self.placed = Ranking[str](), dict[str, tuple[float, int]](), itertools.count()

    @rule(key=KEYS, rank=st.integers(0, 5), times=st.integers(1, 40))
    def place(self, key: str, rank: int, times: int) -> None:
        for _ in range(times):
            self.ranking.place(key, rank)
            self.model[key] = (rank, next(self.placed))

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.ranking.drop(key)
        self.model.pop(key, None)

    @invariant()
    def it_is_in_order_and_bounded(self) -> None:
        assert list(self.ranking.ascending()) == sorted(self.model, key=self.model.__getitem__)
        assert {key: self.ranking.rank(key) for key in self.model} == {key: rank for key, (rank, _) in self.model.items()}
        assert len(self.ranking._heap) <= 2 * len(self.model) + 64


RankingMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20)
TestRanking = RankingMachine.TestCase
