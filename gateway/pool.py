"""The workers as the gateway sees them: which are healthy, how busy they are, which one gets a question.

Health is polled and also learned from failures; the choice itself is `router/placement.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import structlog

from backends.base import KVServer, Worker
from router.documents import Version
from router.errors import EngineUnavailable
from router.placement import WorkerView, choose
from router.residency import Ledger

log = structlog.get_logger("workers")


STRIKES = 3
"""A busy machine may answer one check late: a worker is out after this many in a row, or at once when a question can't reach it."""


class _Member:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.problem: str | None = "has not been checked yet"
        self.strikes = 0
        self.running = 0
        self.waiting = 0
        """Live questions that have no first token yet."""
        self.quiet = asyncio.Event()
        self.quiet.set()


class WorkerPool:
    def __init__(
        self,
        workers: Sequence[Worker],
        ledger: Ledger,
        *,
        capacity: int,
        kv_server: KVServer | None = None,
        check_interval_s: float = 2.0,
    ) -> None:
        """`capacity`: how many questions a worker may have at once before others are refused."""
        self._members = {worker.name: _Member(worker) for worker in workers}
        self._ledger = ledger
        self._capacity = capacity
        self._check_interval_s = check_interval_s
        self._kv_server = kv_server
        self.kv_problem: str | None = None
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<WorkerPool { ({name: m.problem or m.running for name, m in self._members.items()}) }>"

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with each worker that can't answer."""
        return {name: member.problem for name, member in self._members.items() if member.problem is not None}

    @property
    def healthy(self) -> int:
        return sum(member.problem is None for member in self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def running(self) -> Iterable[tuple[str, int]]:
        return [(name, member.running) for name, member in self._members.items()]

    def pick(self, version: Version, *, avoid: frozenset[str] = frozenset()) -> Worker:
        """The worker for a question about this version. Raises EngineUnavailable that says why there is none."""
        views = [
            WorkerView(name, member.problem is None, member.running, self._capacity, self._ledger.gpu_share(version, name))
            for name, member in self._members.items()
        ]
        name = choose(version.id, views, avoid=avoid)
        if name is not None:
            return self._members[name].worker
        if self.healthy and not avoid:
            raise EngineUnavailable("All workers are full. Try again in a moment.", retry_after_s=1)
        raise EngineUnavailable(f"No worker can answer now: {self._words() or 'the others have just failed'}.")

    @contextmanager
    def slot(self, worker: Worker) -> Iterator[None]:
        """One request under way on this worker."""
        member = self._members[worker.name]
        member.running += 1
        try:
            yield
        finally:
            member.running -= 1

    @contextmanager
    def waiting(self, worker: Worker) -> Iterator[None]:
        """A live question that waits for its first token: readings let it pass."""
        member = self._members[worker.name]
        member.waiting += 1
        member.quiet.clear()
        try:
            yield
        finally:
            member.waiting -= 1
            if not member.waiting:
                member.quiet.set()

    def busy(self, worker: Worker) -> bool:
        """Whether anything is under way on this worker."""
        return self._members[worker.name].running > 0

    async def quiet(self, worker: Worker, *, at_most_s: float) -> None:
        """Return when no live question waits for this worker's first token, or after `at_most_s`: readings must get on too."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._members[worker.name].quiet.wait()

    def failed(self, worker: Worker, why: str) -> None:
        """A question could not reach this worker: it gets no more until a check succeeds."""
        self._set(self._members[worker.name], why)

    async def usable(self) -> None:
        """Return once some worker is healthy."""
        while not self.healthy:
            self._changed.clear()
            await self._changed.wait()

    async def check(self) -> None:
        """Ask every worker and the KV server once."""
        await asyncio.gather(*(self._check(member) for member in self._members.values()), self._check_kv())

    async def watch(self) -> None:
        """Check again and again until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._check_interval_s)

    async def _check(self, member: _Member) -> None:
        problem = await member.worker.check()
        member.strikes = member.strikes + 1 if problem else 0
        if problem is None or member.problem is not None or member.strikes >= STRIKES:
            self._set(member, problem)

    async def _check_kv(self) -> None:
        if self._kv_server is not None:
            problem = await self._kv_server.check()
            if (problem is None) != (self.kv_problem is None):
                log.info("kv_server_changed", problem=problem)
            self.kv_problem = problem

    def _set(self, member: _Member, problem: str | None) -> None:
        if (problem is None) != (member.problem is None):
            log.info("worker_changed", worker=member.worker.name, problem=problem)
        if problem is not None and member.problem is None:
            self._ledger.forget_worker(member.worker.name)
        member.problem = problem
        self._changed.set()

    def _words(self) -> str:
        return "; ".join(f"{name} {problem}" for name, problem in self.problems.items())
