"""Questions that wait for a worker, and whose turn it is when one has room: `router/fairness.py` decides.

A worker is sent only so many questions at a time as it computes at once: what waited in the engine would be served in the order in
which it came, and a tenant who sends fifty would have all others wait behind them. The course of one question:

1. While a worker has room it goes at once. Else it waits, or is refused where too many do already.
2. When a slot is free, somebody goes: no slot stays empty for long while anybody waits. Its worker is chosen then, not before.
   A few slots beyond (`SPARE`) are for tenants that have nothing under way: such a question need not wait for another's end.
   While several tenants ask, one that sends many at once starts them one after the other (`Starts`).
3. Its tenant's counter is charged with what it is believed to take, with each token as it comes, and in the end with what it took.
4. Whatever ends it, a client that leaves as well, its place is free at once.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable

from backends.base import Worker
from backends.settings import SPARE
from gateway.asking.ticket import Ticket
from gateway.pool import ANY, WorkerPool
from gateway.sections import Queue as Limits
from observability.telemetry import OUTCOME, Telemetry
from router.documents import TenantId, Version
from router.errors import EngineUnavailable, KvshelfError, QueueFull, ShareFull, WaitedTooLong
from router.fairness import Bill, Starts, Turns, retry_after_s, service

MEMORY = 0.1
"""What the newest question counts in the mean of how long they take."""


class Queue:
    def __init__(
        self,
        pool: WorkerPool,
        turns: Turns,
        telemetry: Telemetry,
        limits: Limits,
        *,
        weight_of: Callable[[TenantId], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`weight_of`: a tenant of twice the weight is given twice as much. Takes the pool's `on_change`."""
        self._pool = pool
        self._turns = turns
        self._starts = Starts()
        self._telemetry = telemetry
        self._max_waiting = limits.max_waiting * max(len(pool), 1)
        self._max_of_one = max(math.floor(self._max_waiting * limits.max_share), 1)
        self._max_wait_s = limits.max_wait_s
        self._weight_of = weight_of
        self.clock = clock
        self._numbers = itertools.count()
        self._line: dict[int, Ticket] = {}
        """Those in the line of their tenant, by number. Others of the waiting have stepped aside (`Ticket.aside`)."""
        self._waiting: Counter[TenantId] = Counter()
        self._under_way: Counter[TenantId] = Counter()
        self._presses = False
        self._service_s = 0.0
        """How long a question takes of late; 0 before the first."""
        pool.on_change = self.serve

    def __repr__(self) -> str:
        return f"<Queue {len(self)} waiting, {self._turns}>"

    def __len__(self) -> int:
        return self._waiting.total()

    def ticket(self, tenant: TenantId) -> Ticket:
        """For one question. To be used as a context."""
        return Ticket(self, tenant, next(self._numbers))

    def line_up(self, ticket: Ticket) -> None:
        """Have it wait for its turn, which may come at once. Raises KvshelfError where it may not wait."""
        if not self._pool.healthy:
            self._pool.pick(ticket.version)  # says why
        is_new = not ticket.waits
        self._starts.asked(ticket.tenant, self.clock())
        self.count(ticket)
        self._line[ticket.number] = ticket
        self._turns.join(ticket.tenant, ticket.number)
        self.serve()
        if is_new and ticket.waits and (refusal := self._refusal(ticket.tenant)) is not None:
            self.drop(ticket)
            self.observe(0.0, "refused")
            raise refusal

    def serve(self) -> None:
        """Whoever is next goes, as long as a worker has room. Where none is left at all, nobody waits for it."""
        while self._line and self._pool.has_room():
            if not self._seat(self._turns.next(ready=self._may_start), beyond=0):
                break
        while self._line and self._pool.has_room(beyond=SPARE):
            if not self._seat(self._turns.next(lambda tenant: tenant not in self._under_way), beyond=SPARE):
                break
        if self._line and not self._pool.healthy:
            for ticket in tuple(self._line.values()):
                self.drop(ticket)
                try:
                    self._pool.pick(ticket.version)
                except EngineUnavailable as error:
                    ticket.refuse(error, "failed")
        self._press()

    def _seat(self, number: int | None, *, beyond: int) -> bool:
        """The question of this number goes; False where there is none."""
        if number is None:
            return False
        ticket = self._line.pop(number)
        worker = self._pool.pick(ticket.version, beyond=beyond)
        self._pool.take(worker)
        self.discount(ticket)
        self._under_way[ticket.tenant] += 1
        self._starts.begin(ticket.tenant)
        bill = self._turns.open(ticket.tenant, self._weight_of(ticket.tenant))
        self._turns.charge(bill, service(computed=ticket.computed(worker), generated=0))
        ticket.begin(worker, bill)
        return True

    def started(self, tenant: TenantId) -> None:
        """One of theirs has its first token, takes too long to it, or gave its slot back without."""
        self._starts.end(tenant)
        if self._line:
            self.serve()

    def drop(self, ticket: Ticket) -> None:
        """Out of the line, if it stands there."""
        if self._line.pop(ticket.number, None) is not None:
            self._turns.leave(ticket.tenant, ticket.number)
            self._press()
        self.discount(ticket)

    def count(self, ticket: Ticket) -> None:
        if not ticket.waits:
            ticket.waits = True
            self._waiting[ticket.tenant] += 1

    def discount(self, ticket: Ticket) -> None:
        if ticket.waits:
            ticket.waits = False
            _less(self._waiting, ticket.tenant)

    def charge(self, bill: Bill, amount: float) -> None:
        self._turns.charge(bill, amount)

    def settle(self, bill: Bill, total: float) -> None:
        self._turns.settle(bill, total)

    def move(self, worker: Worker, version: Version, avoid: frozenset[str]) -> Worker:
        """Another worker's slot in the place of this one's, though it be beyond what that one is sent at once."""
        other = self._pool.pick(version, avoid=avoid, beyond=ANY)
        self._pool.take(other)
        self._pool.give(worker)
        return other

    def free(self, tenant: TenantId, worker: Worker, took_s: float | None = None) -> None:
        """A slot is free again. `took_s`: how long a question had it that was asked to its end."""
        if took_s is not None:
            self._service_s += (MEMORY if self._service_s else 1.0) * (took_s - self._service_s)
        _less(self._under_way, tenant)
        self._pool.give(worker)

    def late(self, ticket: Ticket, waited_s: float) -> None:
        """Its time is up."""
        self.drop(ticket)
        words = f"The question waited {waited_s:.0f} s for a worker, as long as it may (`queue.max_wait_s`). Try again later."
        ticket.refuse(WaitedTooLong(words, retry_after_s=self._retry_after_s()), "late")

    @property
    def max_wait_s(self) -> float:
        return self._max_wait_s

    def observe(self, waited_s: float, outcome: str) -> None:
        self._telemetry.queue_wait.record(waited_s, {OUTCOME: outcome})

    def _may_start(self, tenant: TenantId) -> bool:
        return self._starts.may(tenant, self._pool.slots, self.clock())

    def _press(self) -> None:
        """Have readings let those pass that wait in line."""
        if bool(self._line) != self._presses:
            self._presses = bool(self._line)
            self._pool.press(1 if self._presses else -1)

    def _refusal(self, tenant: TenantId) -> KvshelfError | None:
        """Why the question that came last may not wait."""
        if self._waiting[tenant] > self._max_of_one:
            words = f"{self._max_of_one} of your questions wait for a worker already, and no more may. Send fewer at a time."
            return ShareFull(words, retry_after_s=self._retry_after_s())
        if len(self) > self._max_waiting:
            words = f"Every worker is full, and {self._max_waiting} questions wait already. Try again in a moment."
            return QueueFull(words, retry_after_s=self._retry_after_s())
        return None

    def _retry_after_s(self) -> int:
        return retry_after_s(len(self), self._pool.slots, self._service_s)


def _less(counts: Counter[TenantId], tenant: TenantId) -> None:
    counts[tenant] -= 1
    if not counts[tenant]:
        del counts[tenant]
