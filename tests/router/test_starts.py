"""How many of a tenant's questions may start at once: as many as it likes where it asks alone."""

from __future__ import annotations

import pytest

from router.documents import TenantId
from router.fairness import LATELY_S, Starts, Turns
from tests.router.test_fairness import A, B, C


def beginning(starts: Starts, tenant: TenantId, slots: int, now: float = 0.0) -> int:
    """How many more of theirs begin, of a hundred."""
    count = 0
    while count < 100 and starts.may(tenant, slots, now):
        starts.begin(tenant)
        count += 1
    return count


def test_who_asks_alone_is_not_held_back() -> None:
    starts = Starts()
    starts.asked(A, 0.0)
    assert beginning(starts, A, 8) == 100


@pytest.mark.parametrize(("slots", "may"), [(0, 1), (2, 1), (8, 1), (32, 4), (256, 32)])
def test_beside_another_one_tenants_start_in_a_share_of_the_slots(slots: int, may: int) -> None:
    starts = Starts()
    for tenant in (B, A):
        starts.asked(tenant, 0.0)
    assert (beginning(starts, A, slots), beginning(starts, B, slots)) == (may, may)


def test_one_that_has_its_first_token_makes_way_for_the_next() -> None:
    starts = Starts()
    for tenant in (A, B):
        starts.asked(tenant, 0.0)
    assert beginning(starts, A, 8) == 1
    starts.end(A)
    assert len(starts) == 0
    assert beginning(starts, A, 8) == 1


def test_who_asked_long_ago_counts_no_more() -> None:
    starts = Starts()
    for tenant in (B, C):
        starts.asked(tenant, 0.0)
    starts.asked(A, 1.0)
    assert beginning(starts, A, 8, LATELY_S) == 1
    assert beginning(starts, A, 8, LATELY_S + 0.1) == 100


def test_those_who_asked_long_ago_are_forgotten() -> None:
    starts = Starts()
    for number in range(1000):
        starts.asked(TenantId(str(number)), float(number))
    assert "61 asked lately" in repr(starts)


def test_who_may_not_start_keeps_its_place_while_others_go() -> None:
    turns = Turns()
    for number, tenant in enumerate((A, A, B)):
        turns.join(tenant, number)
    turns.charge(turns.open(B, 1.0), 100)  # it was given more
    assert turns.next(ready=lambda tenant: tenant != A) == 2
    assert turns.next(ready=lambda tenant: tenant != A) is None
    assert [turns.next(), turns.next()] == [0, 1]
