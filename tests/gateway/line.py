"""A queue before workers whose questions are held until they are let go, for the queue's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.asking.queue import Queue
from gateway.asking.ticket import Ticket
from gateway.pool import WorkerPool
from gateway.sections import Queue as Limits
from observability.telemetry import Telemetry
from router.documents import TenantId
from router.errors import KvshelfError
from router.fairness import Turns
from router.residency import Ledger
from tests.fakes.engine import FakeHost, FakeWorker
from tests.gateway.yard import VERSION

A, B, C = TenantId("a"), TenantId("b"), TenantId("c")
AT_ONCE = 2


class Line:
    """A queue before one worker of two slots, or more; each question is held until it is let go."""

    def __init__(self, workers: int = 1, *, weight_of: Callable[[TenantId], float] = lambda _: 1.0, **limits: float) -> None:
        self.telemetry = Telemetry()
        self.workers = [FakeWorker(f"worker-{number}", FakeHost()) for number in range(workers)]
        self.pool = WorkerPool(self.workers, Ledger(), at_once=AT_ONCE)
        self.queue = Queue(self.pool, Turns(), self.telemetry, Limits(**limits), weight_of=weight_of)  # type: ignore[arg-type]
        self.order: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.tickets: dict[str, Ticket] = {}

    async def ask(self, name: str, tenant: TenantId, *, computed: int = 10, answers: bool = True) -> None:
        """Under way as a task, in the queue or beyond it when this returns; `name` tells it in `order`. `answers`: with a token, at once."""
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._question(name, tenant, computed, answers))
        await settled()

    async def _question(self, name: str, tenant: TenantId, computed: int, answers: bool) -> None:
        with self.queue.ticket(tenant) as ticket:
            self.tickets[name] = ticket
            await ticket.turn(VERSION, lambda _: computed)
            self.order.append(name)
            if answers:
                ticket.generated()
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        await settled()

    async def refused(self, name: str) -> KvshelfError:
        with pytest.raises(KvshelfError) as caught:
            await self.tasks[name]
        return caught.value

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.wait((self.tasks[name],))
        await settled()

    @property
    def running(self) -> int:
        return sum(count for _, count in self.pool.running)

    def nothing_is_left(self) -> None:
        assert (len(self.queue), self.running, len(self.queue._turns)) == (0, 0, 0)
        assert not self.queue._under_way
        assert not len(self.queue._starts)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def line(workers: int = 1, **more: object) -> AsyncIterator[Line]:
    made = Line(workers, **more)  # type: ignore[arg-type]
    await made.pool.check()
    yield made
    for task in made.tasks.values():
        task.cancel()
    await asyncio.gather(*made.tasks.values(), return_exceptions=True)
    made.nothing_is_left()
    made.telemetry.close()
