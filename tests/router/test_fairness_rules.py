"""Fair turns, whatever happens: what two tenants that both wait are given, and that nobody waits for ever."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.documents import TenantId
from router.fairness import LEAST, OUTPUT_WEIGHT, Bill, Turns, service
from tests.router.test_fairness import A, B, C

SLOTS = 2
SPARE = 1
"""Slots beyond, for a tenant that has nothing under way."""
MOST_INPUT, MOST_OUTPUT = 50, 2
UNDER_WAY = (SLOTS + SPARE) * (OUTPUT_WEIGHT * MOST_OUTPUT + MOST_INPUT)
"""The most by which the questions under way may be charged otherwise than they have been."""
LEAD = MOST_INPUT + UNDER_WAY + UNDER_WAY
"""How far a tenant that waits may be before the one that was given least: one question's input as it is chosen, what its questions
under way may add, and what those of the other may give back."""
BOUND = 2 * LEAD + 2 * UNDER_WAY
"""By how much the service of two tenants that wait all the time may differ, for a weight of 1 (the paper's Theorem 4.4, with what
was believed wrongly)."""


class Served(RuleBasedStateMachine):
    """Slots that are never left empty while somebody waits, questions whose cost is believed wrongly, tenants that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = self.make()
        self.numbers = 0
        self.waiting: dict[int, tuple[TenantId, int, int]] = {}
        """number → tenant, believed input, true input"""
        self.under_way: deque[tuple[Bill, int, int, int]] = deque()
        """bill, true input, tokens that came, tokens it will have"""
        self.differences: dict[tuple[TenantId, TenantId], float] = {}
        """Of each two that both have waited without a break: how much more the first was given."""
        self.passed: dict[int, int] = {}
        """How many have gone since a question came first among its tenant's."""

    @staticmethod
    def make() -> Turns:
        return Turns()

    @staticmethod
    def weight(tenant: TenantId) -> float:
        return 2.0 if tenant == C else 1.0

    def tenants(self) -> set[TenantId]:
        return {tenant for tenant, _, _ in self.waiting.values()}

    def give(self, tenant: TenantId, amount: float) -> None:
        for (one, other), difference in self.differences.items():
            if tenant in (one, other):
                signed = amount if tenant == one else -amount
                self.differences[one, other] = difference + signed / self.weight(tenant)

    def turn(self) -> int | None:
        if len(self.under_way) < SLOTS:
            return self.turns.next()
        under_way = {bill.tenant for bill, _, _, _ in self.under_way}
        return self.turns.next(lambda tenant: tenant not in under_way) if len(self.under_way) < SLOTS + SPARE else None

    def seat(self) -> None:
        """As the queue does it: whoever is next goes, as long as there is a slot."""
        while (number := self.turn()) is not None:
            tenant, believed, true = self.waiting.pop(number)
            assert not any(one == tenant and other < number for other, (one, _, _) in self.waiting.items()), "first come"
            for other in {min(n for n, (t, _, _) in self.waiting.items() if t == one) for one in self.tenants()}:
                self.passed[other] = self.passed.get(other, 0) + 1
            self.passed.pop(number, None)
            bill = self.turns.open(tenant, self.weight(tenant))
            self.turns.charge(bill, service(computed=believed, generated=0))
            self.under_way.append((bill, true, 0, number % (MOST_OUTPUT + 1)))
            self.give(tenant, true)
        self.differences = {
            (one, other): self.differences.get((one, other), 0.0)
            for one in self.tenants()
            for other in self.tenants()
            if one < other
        }

    @rule(tenant=st.sampled_from([A, B, C]), count=st.integers(1, 40), believed=st.integers(1, MOST_INPUT), wrong=st.booleans())
    def ask(self, tenant: TenantId, count: int, believed: int, wrong: bool) -> None:
        for _ in range(count):
            true = (self.numbers * 7) % MOST_INPUT + 1 if wrong else believed
            self.waiting[self.numbers] = (tenant, believed, true)
            self.turns.join(tenant, self.numbers)
            self.numbers += 1
        self.seat()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        tenant, _, _ = self.waiting.pop(number)
        self.passed.pop(number, None)
        self.turns.leave(tenant, number)
        self.seat()

    @precondition(lambda self: self.under_way)
    @rule(steps=st.integers(1, 100))
    def answer(self, steps: int) -> None:
        for _ in range(steps):
            if not self.under_way:
                return
            bill, true, came, will = self.under_way.popleft()
            if came < will:
                self.turns.charge(bill, OUTPUT_WEIGHT)
                self.give(bill.tenant, OUTPUT_WEIGHT)
                self.under_way.append((bill, true, came + 1, will))
            else:
                self.turns.settle(bill, service(computed=true, generated=came))
                self.seat()

    @invariant()
    def no_slot_is_empty_while_somebody_waits(self) -> None:
        assert len(self.turns) == len(self.waiting)
        assert not self.waiting or len(self.under_way) >= SLOTS

    @invariant()
    def two_that_wait_are_given_the_same(self) -> None:
        for difference in self.differences.values():
            assert abs(difference) <= BOUND

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """Every question that goes moves its tenant's counter by `LEAST` at the least: half of that for a weight of 2."""
        for passed in self.passed.values():
            assert passed <= 2 * BOUND / (LEAST / 2)


Served.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestServed = Served.TestCase
