"""Who is served next where more questions wait than can be served: virtual token counters, one a tenant.

Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024, arXiv 2401.00588), with weights:

* A counter says what a tenant has been given: service (below) divided by its weight. Of the tenants that wait, the one with the
  smallest counter goes next, with the question that came first.
* What is only believed when a question goes is charged then, and put right once it is known: else one tenant could take every
  slot before its counter moves.
* A tenant that had nothing waiting is lifted to the least of those that wait (nobody: to the one that waited last). Who was away
  has saved up nothing, and who asked alone owes nothing.

Two tenants that both wait all the time are so given the same, up to what is under way at once (`tests/router/test_fairness_rules.py`
has the bound), and nobody waits for ever. Who waits and who goes is all that is decided here; when there is a slot is not.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable

from router.documents import TenantId

OUTPUT_WEIGHT = 2.0
"""A token of an answer weighs as much as two of a prompt: the paper's weights. It takes a step of the engine by itself, where a
prompt's come hundreds in a step; but a step answers the whole batch. On a processor it weighs more, on a GPU less."""

LEAST = 1.0
"""The service of any question: the last token of a prompt is always computed. Nobody goes on and on for nothing."""

MOST_RETRY_S = 60

LATELY_S = 60.0
"""Who asked within this time is taken for somebody who asks again."""
STARTING_SHARE = 8
"""One in so many of the slots may be taken by one tenant's questions without a first token; one slot always may."""


def service(*, computed: int, generated: int) -> float:
    """What a question took, in tokens of a prompt. `computed`: those of its prompt that were in no cache, for these it was that
    a worker worked: a warm question costs next to nothing of its document, a cold one all of it."""
    return max(computed + OUTPUT_WEIGHT * generated, LEAST)


def retry_after_s(waiting: int, slots: int, service_s: float) -> int:
    """When it is worth asking again: seconds until those `waiting` have gone, where each of `slots` takes `service_s` a question."""
    return min(max(math.ceil(waiting * service_s / max(slots, 1)), 1), MOST_RETRY_S)


def anybody(_: TenantId) -> bool:
    return True


class Bill:
    """What one question was charged so far, in service."""

    __slots__ = ("charged", "lifts", "tenant", "weight")

    def __init__(self, tenant: TenantId, weight: float, lifts: int) -> None:
        self.tenant = tenant
        self.weight = weight
        self.lifts = lifts
        self.charged = 0.0


class Turns:
    """Who waits, by numbers that grow as questions come; and the counters, which outlive the waiting."""

    def __init__(self) -> None:
        self._lines: dict[TenantId, list[int]] = {}
        """Of each tenant that waits, its questions; none is empty."""
        self._counters: dict[TenantId, float] = {}
        self._lifts: dict[TenantId, int] = {}
        """How often each was lifted."""
        self._last: TenantId | None = None
        """Who was the last to have something waiting."""
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __repr__(self) -> str:
        return f"<Turns { ({tenant: len(line) for tenant, line in self._lines.items()}) }>"

    def counter(self, tenant: TenantId) -> float:
        return self._counters.get(tenant, 0.0)

    def join(self, tenant: TenantId, number: int) -> None:
        """A question waits, in its place by `number` among its tenant's."""
        line = self._lines.get(tenant)
        if line is None:
            if (least := self._least()) > self.counter(tenant):
                self._counters[tenant] = least
                self._lifts[tenant] = self._lifts.get(tenant, 0) + 1
            line = self._lines[tenant] = []
        insort(line, number)
        self._waiting += 1

    def leave(self, tenant: TenantId, number: int) -> None:
        """It waits no more. Raises KeyError where it didn't."""
        line = self._lines[tenant]
        place = bisect_left(line, number)
        if place == len(line) or line[place] != number:
            raise KeyError(number)
        self._remove(tenant, place)

    def next(self, among: Callable[[TenantId], bool] = anybody, *, ready: Callable[[TenantId], bool] = anybody) -> int | None:
        """The question that goes now, which waits no more; None where nobody waits, or nobody may go yet.

        `among`: whose turn it can be. Nobody goes before a tenant that was given less, unless that one isn't `ready`.
        """
        there = [tenant for tenant in self._lines if ready(tenant)]
        least = min(map(self.counter, there), default=0.0)
        may = [tenant for tenant in there if self.counter(tenant) <= least and among(tenant)]
        return self._remove(min(may, key=lambda tenant: self._lines[tenant][0]), 0) if may else None

    def open(self, tenant: TenantId, weight: float) -> Bill:
        """The bill of a question that goes. `weight`: a tenant of twice the weight is given twice as much."""
        return Bill(tenant, weight, self._lifts.get(tenant, 0))

    def charge(self, bill: Bill, amount: float) -> None:
        """It takes so much more."""
        bill.charged += amount
        self._counters[bill.tenant] = self.counter(bill.tenant) + amount / bill.weight

    def settle(self, bill: Bill, total: float) -> None:
        """It took so much in all. What was charged beyond it comes back, unless its tenant has been lifted since: where it stands
        then says nothing of what it was charged before."""
        if total > bill.charged or bill.lifts == self._lifts.get(bill.tenant, 0):
            self.charge(bill, total - bill.charged)

    def _least(self) -> float:
        """What a tenant that comes back is lifted to."""
        if self._lines:
            return min(map(self.counter, self._lines))
        return self.counter(self._last) if self._last is not None else 0.0

    def _remove(self, tenant: TenantId, place: int) -> int:
        number = self._lines[tenant].pop(place)
        self._waiting -= 1
        self._last = tenant
        if not self._lines[tenant]:
            del self._lines[tenant]
        return number


class Starts:
    """How many of a tenant's questions may be on their way to a first token at once.

    The engine computes together the prompts that come together: eight of one tenant's make a step so long that whoever asks then
    waits for all eight. So while others ask as well, they start one after the other. Who asks alone is not held back.

    Not all work is conserved: in the simulated engine who floods is given 5 % fewer answers than first come first served gives,
    of very short ones 41 %, and another's first token (p95) takes 1.8 and 1.5 times as long as alone (`make bench ARGS=fairness`).
    """

    def __init__(self) -> None:
        self._asked_at: dict[TenantId, float] = {}
        """Of those who asked lately; who asked last is last."""
        self._starting: Counter[TenantId] = Counter()

    def __repr__(self) -> str:
        return f"<Starts {dict(self._starting)}, {len(self._asked_at)} asked lately>"

    def __len__(self) -> int:
        return self._starting.total()

    def asked(self, tenant: TenantId, now: float) -> None:
        self._asked_at.pop(tenant, None)
        self._asked_at[tenant] = now
        while now - self._asked_at[first := next(iter(self._asked_at))] > LATELY_S:
            del self._asked_at[first]

    def begin(self, tenant: TenantId) -> None:
        self._starting[tenant] += 1

    def end(self, tenant: TenantId) -> None:
        """One has its first token, won't get any, or takes long."""
        self._starting[tenant] -= 1
        if not self._starting[tenant]:
            del self._starting[tenant]

    def may(self, tenant: TenantId, slots: int, now: float) -> bool:
        """Whether one more may start, on workers that answer `slots` at a time."""
        other = next((one for one in reversed(self._asked_at) if one != tenant), None)
        alone = other is None or now - self._asked_at[other] > LATELY_S
        return alone or self._starting[tenant] < max(slots // STARTING_SHARE, 1)
