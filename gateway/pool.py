"""The workers as the gateway sees them: which are healthy, how busy they are, which one gets a question.

Health is polled and also learned from failures, and with it what a worker has to do for others than this gateway. The
choice itself is `router/placement.py`'s, what is held where the ledger's, and the KV servers are others' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import structlog

from backends.base import Worker
from router.documents import Version
from router.errors import EngineUnavailable
from router.placement import Costs, WorkerView, choose
from router.residency import Ledger, Tier

log = structlog.get_logger("workers")


ANY = 1_000_000
"""So many beyond what a worker is sent at once are as many as there are: a reading does not wait for a question's slot."""
STRIKES = 3
"""A busy machine may answer one check late: a worker is out after this many in a row, or at once when a question can't reach it."""


class _Member:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.problem: str | None = "has not been checked yet"
        self.strikes = 0
        self.running = 0
        self.beside = 0
        """Those of `running` that are readings and the like: they go beyond `at_once`."""
        self.most = 0
        """The most that were running since the last look at the worker's load began."""
        self.elsewhere = 0
        """Requests of others than this gateway, at that look."""
        self.silent = 0
        """Looks in a row that gave nothing."""
        self.waiting = 0
        """Live questions that have no first token yet."""
        self.quiet = asyncio.Event()
        self.quiet.set()
        self.asked = asyncio.Event()
        """The opposite of `quiet`."""

    def press(self, by: int) -> None:
        self.waiting += by
        on, off = (self.asked, self.quiet) if self.waiting else (self.quiet, self.asked)
        on.set()
        off.clear()

    def has_room(self, slots: int) -> bool:
        return self.problem is None and self.running - self.beside < slots


class WorkerPool:
    def __init__(
        self,
        workers: Sequence[Worker],
        ledger: Ledger,
        *,
        at_once: int,
        check_interval_s: float = 2.0,
        costs: Costs | None = None,
    ) -> None:
        """`at_once`: how many questions a worker is sent at a time."""
        self._members = {worker.name: _Member(worker) for worker in workers}
        self._ledger = ledger
        self._at_once = at_once
        self._check_interval_s = check_interval_s
        self.costs = costs or Costs()
        """What the choice weighs: whoever has observed better figures may put them here."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when there may be room on a worker, or when one is no longer healthy: whoever lets questions wait puts it here."""
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

    @property
    def pressed(self) -> bool:
        """Whether a live question waits for its first token anywhere."""
        return any(member.waiting for member in self._members.values())

    @property
    def slots(self) -> int:
        """How many questions the healthy workers answer at a time."""
        return self.healthy * self._at_once

    def has_room(self, *, beyond: int = 0) -> bool:
        """Whether some worker can be sent a question now, where it may have so many `beyond` what it is sent at once."""
        return any(member.has_room(self._at_once + beyond) for member in self._members.values())

    def pick(
        self,
        version: Version,
        *,
        avoid: frozenset[str] = frozenset(),
        host: str | None = None,
        worker: str | None = None,
        beyond: int = 0,
    ) -> Worker:
        """The worker for a question about this version: of all, of those of this host, or just this one.

        `beyond`: it may have so many questions more than it is sent at once. Raises EngineUnavailable that says why there is none.
        """
        among = {
            name: member
            for name, member in self._members.items()
            if worker in (None, name) and (host is None or self._ledger.host_of(name) == host)
        }
        chosen = choose(version, self._views(version, among, self._at_once + beyond), self.costs, avoid=avoid)
        if chosen is not None:
            return among[chosen].worker
        raise _why_not(among, avoid, host, worker)

    def warm(self, version: Version) -> frozenset[str]:
        """The workers that need no disk to answer from all of this version: it is on their GPU, or in their host's RAM."""
        return frozenset(name for name in self._members if self._ledger.tier(version, name) in (Tier.GPU, Tier.RAM))

    def pick_warm(self, version: Version) -> Worker:
        """The worker for a question that is asked of what is at hand or not at all. Raises EngineUnavailable."""
        return self.pick(version, avoid=frozenset(self._members) - self.warm(version))

    def pick_idle(self, version: Version) -> Worker | None:
        """A worker that has nothing to do, for anybody, and needs no disk to answer from all of this version; None if there is none."""
        for name in sorted(self.warm(version)):
            member = self._members[name]
            if member.problem is None and not member.running and not member.elsewhere:
                return member.worker
        return None

    def _views(self, version: Version, members: Mapping[str, _Member], slots: int) -> list[WorkerView]:
        shares: dict[str | None, tuple[float, float]] = {}
        views = []
        for name, member in members.items():
            gpu, ram, disk = self._ledger.gpu_share(version, name), 0.0, 0.0
            if gpu < 1:  # else nothing has to be fetched, and the slower tiers need no counting of chunks
                host = self._ledger.host_of(name)
                if host not in shares:
                    shares[host] = self._ledger.ram_share(version, host), self._ledger.disk_share(version, host)
                ram, disk = shares[host]
            capacity = slots + member.beside
            views.append(WorkerView(name, member.problem is None, member.running, capacity, member.elsewhere, gpu, ram, disk))
        return views

    def take(self, worker: Worker, *, beside: bool = False) -> None:
        """A request is under way on this worker from now on, until `give`. `beside`: a reading, which takes no question's place."""
        member = self._members[worker.name]
        member.running += 1
        member.beside += beside
        member.most = max(member.most, member.running)

    def give(self, worker: Worker, *, beside: bool = False) -> None:
        """It is no more."""
        member = self._members[worker.name]
        member.running -= 1
        member.beside -= beside
        self.on_change()

    @contextmanager
    def slot(self, worker: Worker, *, beside: bool = False) -> Iterator[None]:
        """One request under way on this worker, see `take`."""
        self.take(worker, beside=beside)
        try:
            yield
        finally:
            self.give(worker, beside=beside)

    @contextmanager
    def waiting(self, worker: Worker) -> Iterator[None]:
        """A live question that waits for its first token: readings let it pass."""
        member = self._members[worker.name]
        member.press(1)
        try:
            yield
        finally:
            member.press(-1)

    def press(self, by: int) -> None:
        """The same for whichever worker has room first: 1 when questions begin to wait for it, -1 when none does any more."""
        for member in self._members.values():
            member.press(by)

    def busy(self, worker: Worker) -> bool:
        """Whether anything is under way on this worker."""
        return self._members[worker.name].running > 0

    async def asked(self, worker: Worker) -> None:
        """Return when a live question waits for this worker's first token."""
        await self._members[worker.name].asked.wait()

    async def calm(self) -> None:
        """Return when no live question waits for its first token anywhere."""
        while self.pressed:
            for member in self._members.values():
                await member.quiet.wait()

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
        """Ask every worker once."""
        await asyncio.gather(*(self._check(member) for member in self._members.values()))

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
        if problem is None:
            await self._look(member)

    async def _look(self, member: _Member) -> None:
        """What the worker does for others: all that it has, less the most that it had from here meanwhile."""
        member.most = member.running
        try:
            load = await member.worker.load()
        except Exception as error:  # noqa: BLE001 - a better choice is all that is lost
            log.debug("load_unknown", worker=member.worker.name, error=str(error))
            load = None
        if load is not None:
            member.elsewhere, member.silent = max(load.running + load.waiting - member.most, 0), 0
            return
        member.silent += 1
        if member.silent >= STRIKES:
            member.elsewhere = 0  # nothing would ever take back what was heard last

    def _set(self, member: _Member, problem: str | None) -> None:
        if (problem is None) != (member.problem is None):
            log.info("worker_changed", worker=member.worker.name, problem=problem)
        if problem is not None and member.problem is None:
            self._ledger.forget_worker(member.worker.name)
            member.elsewhere = 0
        member.problem = problem
        self._changed.set()
        self.on_change()


def _why_not(members: Mapping[str, _Member], avoid: frozenset[str], host: str | None, worker: str | None) -> EngineUnavailable:
    """Why none of these, which are all that `host` and `worker` allow, can take a question."""
    who = "worker" + (f" {worker!r}" if worker is not None else "") + (f" of host {host!r}" if host is not None else "")
    if not members:
        return EngineUnavailable(f"There is no {who}.")
    if any(member.problem is None and name not in avoid for name, member in members.items()):
        full = f"{'Every' if worker is None else 'The'} {who} is full."
        return EngineUnavailable(f"{full} Try again in a moment.", retry_after_s=1)
    problems = "; ".join(f"{name} {member.problem}" for name, member in members.items() if member.problem is not None)
    return EngineUnavailable(f"There is no {who} that can answer now: {problems or 'the others have just failed'}.")
