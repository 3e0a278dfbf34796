"""One question's place: first in the queue, then on a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from backends.base import Usage, Worker
from router.documents import TenantId, Version
from router.errors import KvshelfError
from router.fairness import OUTPUT_WEIGHT, Bill, service

if TYPE_CHECKING:  # which makes the tickets
    from gateway.asking.queue import Queue

STARTING_S = 0.5
"""So long a question without a first token holds its tenant's next ones back (`Starts`): a long prompt of one user's is not to
stop all others of the tenant, nor a worker that hangs."""


class Ticket:
    """A context, which gives back whatever it has."""

    def __init__(self, queue: Queue, tenant: TenantId, number: int) -> None:
        self._queue = queue
        self.tenant = tenant
        self.number = number
        self.version: Version
        self.computed: Callable[[Worker], int]
        self.waits = False
        """Whether it counts as waiting."""
        self._starting: asyncio.TimerHandle | None = None
        """While it has a slot, and no first token yet: when that holds nobody back any more."""
        self.waited_s = 0.0
        self._worker: Worker | None = None
        self._bill: Bill | None = None
        self._began_at = 0.0
        self._turn: asyncio.Future[Worker] | None = None
        self._outcome = "left"
        """Of the waiting: `served`, `late`, `failed` where no worker was left, else `left`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._queue.drop(self)
        self._end_start()
        if self._worker is not None:
            self._queue.free(self.tenant, self._worker, self._queue.clock() - self._began_at)
            self._worker = None

    async def turn(self, version: Version, computed: Callable[[Worker], int]) -> Worker:
        """The worker that answers, once it is the question's turn. `computed`: how many of its tokens a worker would compute, as is
        believed. Raises ShareFull, QueueFull or WaitedTooLong, and EngineUnavailable where there is no worker to wait for."""
        self.version, self.computed = version, computed
        self._queue.line_up(self)
        return self._worker if self._worker is not None else await self._wait()

    async def aside(self, until: Awaitable[None]) -> None:
        """Let others have the slot `until` something that the question itself has to wait for; then it needs another `turn`.

        It counts as waiting all the while, but not against the time that it may wait: there is no slot that it waits for.
        """
        if self._bill is not None:
            self._queue.settle(self._bill, 0.0)
        self._queue.count(self)
        self._end_start()
        if (worker := self._worker) is not None:
            self._worker = self._bill = None
            self._queue.free(self.tenant, worker)
        await until

    def again(self, failed: Worker, avoid: frozenset[str]) -> Worker:
        """Another worker at once, in the place of the one that failed: it had its turn. Raises EngineUnavailable."""
        self._worker = self._queue.move(failed, self.version, avoid)
        return self._worker

    def generated(self) -> None:
        """A token more of the answer has come."""
        self._end_start()
        if self._bill is not None:
            self._queue.charge(self._bill, OUTPUT_WEIGHT)

    def settle(self, usage: Usage) -> None:
        """It is known what the question took. Of one that is broken off it is not: it took what it was charged."""
        if self._bill is not None:
            computed = usage.prompt_tokens - usage.cached_tokens
            self._queue.settle(self._bill, service(computed=computed, generated=usage.completion_tokens))

    def begin(self, worker: Worker, bill: Bill) -> None:
        """Called when its turn has come."""
        self._worker, self._bill, self._began_at = worker, bill, self._queue.clock()
        self._starting = asyncio.get_running_loop().call_later(STARTING_S, self._end_start)
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(worker)

    def refuse(self, error: KvshelfError, outcome: str) -> None:
        """Called when it shall wait no more."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(error)
            self._outcome = outcome

    def _end_start(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
            self._queue.started(self.tenant)

    async def _wait(self) -> Worker:
        loop = asyncio.get_running_loop()
        self._turn, self._outcome = loop.create_future(), "left"
        started = self._queue.clock()
        timer = loop.call_later(self._queue.max_wait_s - self.waited_s, lambda: self._queue.late(self, self._queue.max_wait_s))
        try:
            worker = await self._turn
            self._outcome = "served"
        finally:
            timer.cancel()
            self._turn = None
            waited_s = self._queue.clock() - started
            self.waited_s += waited_s
            self._queue.observe(waited_s, self._outcome)
        return worker
