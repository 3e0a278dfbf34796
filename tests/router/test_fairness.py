"""Fair turns: who goes next, what it costs, and what two tenants that both wait are given."""

from __future__ import annotations

from collections import defaultdict

import pytest

from router.documents import TenantId
from router.fairness import LEAST, MOST_RETRY_S, OUTPUT_WEIGHT, Turns, retry_after_s, service
from tests.fakes.crowd import FirstCome

A, B, C = TenantId("a"), TenantId("b"), TenantId("c")


def served(turns: Turns, number: int | None, whose: dict[int, TenantId], cost: float = 1.0, weight: float = 1.0) -> TenantId:
    """The tenant of the question that went, once it was charged."""
    assert number is not None
    turns.charge(turns.open(whose[number], weight), cost)
    return whose[number]


def filled(turns: Turns, **counts: int) -> dict[int, TenantId]:
    """So many questions of each tenant wait, those of the first before all others."""
    names = [TenantId(name) for name, count in counts.items() for _ in range(count)]
    for number, name in enumerate(names):
        turns.join(name, number)
    return dict(enumerate(names))


# --- the order


def test_nobody_waits() -> None:
    turns = Turns()
    assert (len(turns), turns.next()) == (0, None)


def test_one_tenants_questions_go_in_the_order_in_which_they_came() -> None:
    turns = Turns()
    for number in (5, 2, 9):
        turns.join(A, number)
    assert [turns.next() for _ in range(4)] == [2, 5, 9, None]


def test_tenants_take_turns_however_many_questions_one_of_them_has() -> None:
    turns = Turns()
    whose = filled(turns, a=50, b=3)
    order = "".join(served(turns, turns.next(), whose) for _ in range(10))
    assert order == "abababaaaa"


def test_who_was_given_less_goes_first() -> None:
    turns = Turns()
    whose = filled(turns, a=2, b=8)
    assert served(turns, turns.next(), whose, cost=100) == A
    assert [served(turns, turns.next(), whose, cost=20) for _ in range(6)] == [B, B, B, B, B, A]


def test_twice_the_weight_is_given_twice_as_much() -> None:
    turns, weights = Turns(), {A: 1.0, B: 2.0}
    whose = filled(turns, a=100, b=100)
    given = [(number := turns.next(), served(turns, number, whose, weight=weights[whose[number or 0]]))[1] for _ in range(90)]
    assert (given.count(A), given.count(B)) == (30, 60)


def test_one_who_was_away_has_saved_nothing_up() -> None:
    turns = Turns()
    whose = filled(turns, a=100)
    for _ in range(50):
        served(turns, turns.next(), whose)
    for number in range(200, 250):
        whose[number] = B
        turns.join(B, number)
    order = [served(turns, turns.next(), whose) for _ in range(20)]
    assert (order.count(A), order.count(B)) == (10, 10)


def test_who_asked_alone_owes_nothing() -> None:
    turns = Turns()
    for number in range(100):
        turns.join(A, number)
        served(turns, turns.next(), {number: A}, cost=1000)
    turns.join(B, 200)
    turns.join(A, 201)
    assert turns.counter(A) == turns.counter(B)
    assert turns.next() == 200  # it came first


def test_only_those_who_may_go_are_asked_and_never_before_one_who_was_given_less() -> None:
    turns = Turns()
    whose = filled(turns, a=2, b=2)
    assert whose[turns.next(lambda tenant: tenant == B) or 0] == B
    turns.charge(turns.open(B, 1.0), 10)
    assert turns.next(lambda tenant: tenant == B) is None
    assert turns.next(lambda tenant: tenant == C) is None
    assert turns.next() == 0


def test_a_question_that_is_taken_back_leaves_nothing() -> None:
    turns = Turns()
    filled(turns, a=3)
    turns.leave(A, 1)
    assert [turns.next(), turns.next(), turns.next()] == [0, 2, None]
    for tenant, number in ((A, 1), (B, 0)):
        with pytest.raises(KeyError):
            turns.leave(tenant, number)
    turns.join(A, 7)
    with pytest.raises(KeyError):
        turns.leave(A, 8)
    assert len(turns) == 1


# --- what it costs


def test_a_warm_question_costs_next_to_nothing_of_its_document() -> None:
    warm, cold = (service(computed=computed, generated=40) for computed in (38, 6438))
    assert (warm, cold) == (38 + 40 * OUTPUT_WEIGHT, 6438 + 40 * OUTPUT_WEIGHT)
    assert service(computed=0, generated=0) == LEAST


def test_what_was_charged_too_much_comes_back_and_what_was_too_little_is_added() -> None:
    turns = Turns()
    for believed, true in ((100.0, 30.0), (10.0, 70.0)):
        before = turns.counter(A)
        bill = turns.open(A, 2.0)
        turns.charge(bill, believed)
        turns.settle(bill, true)
        assert turns.counter(A) - before == true / 2


def test_what_comes_back_is_no_credit_where_being_lifted_forgave_it() -> None:
    turns = Turns()
    bill = turns.open(A, 1.0)
    turns.charge(bill, 100)
    whose = filled(turns, b=10)
    for _ in range(5):
        served(turns, turns.next(), whose, cost=100)
    turns.join(A, 100)
    assert turns.counter(A) == turns.counter(B) == 500
    turns.settle(bill, 1)
    assert turns.counter(A) == 500


@pytest.mark.parametrize(
    ("waiting", "slots", "service_s", "after"),
    [(0, 8, 1.0, 1), (16, 8, 1.0, 2), (17, 8, 1.0, 3), (5, 0, 2.0, 10), (64, 1, 30.0, MOST_RETRY_S), (3, 8, 0.0, 1)],
)
def test_when_it_is_worth_asking_again(waiting: int, slots: int, service_s: float, after: int) -> None:
    assert retry_after_s(waiting, slots, service_s) == after


def test_two_that_wait_all_the_time_are_given_the_same_and_first_come_first_served_does_not() -> None:
    """One sends ten short questions for each long one of the other, for as long as you like."""

    def difference(turns: Turns) -> float:
        given: dict[TenantId, float] = defaultdict(float)
        costs = {A: 50.0, B: 5.0}
        whose: dict[int, TenantId] = {}
        for number in range(2000):
            whose[number] = A if number % 2 else B
            turns.join(whose[number], number)
        for _ in range(1000):
            number = turns.next() or 0
            bill = turns.open(whose[number], 1.0)
            turns.charge(bill, costs[bill.tenant])
            given[bill.tenant] += costs[bill.tenant]
        return abs(given[A] - given[B])

    assert difference(Turns()) <= 2 * 50
    assert difference(FirstCome()) > 20_000
