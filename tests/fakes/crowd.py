"""Tenants who ask the gateway's queue in simulated time: one with fifty questions under way all the time, one with now and then one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.base import Usage
from backends.settings import SPARE
from gateway.asking.queue import Queue
from gateway.pool import WorkerPool
from gateway.sections import Queue as Limits
from observability.telemetry import Telemetry
from router.documents import TenantId
from router.fairness import Turns, anybody
from router.residency import Ledger
from tests.fakes.engine import FakeHost, FakeWorker
from tests.fakes.simulated import SEQUENCES, SimulatedEngine, now, simulated
from tests.fakes.versions import ready

LIGHT, HEAVY = TenantId("light"), TenantId("heavy")
FLOOD = 50
PROMPT = 6_438
REST_S = 1.7
"""Between two questions of the light tenant; in no step with anything."""
SEGMENT = 256


@dataclass(frozen=True)
class Kind:
    """Questions of which so many tokens have to be computed, and from half to one and a half as many answered as `generate`."""

    compute: int = 38
    generate: int = 40

    def length(self, number: int) -> int:
        """Of the answer to the `number`th question: no two end together."""
        return max(self.generate * (50 + number * 37 % 101) // 100, 1)


WARM = Kind()


@dataclass(frozen=True)
class Figures:
    """Of the light tenant's questions, the seconds to the first token; of the other's, how many were answered a second."""

    first_token_s: Sequence[float]
    heavy_a_second: float


class FirstCome(Turns):
    """Whoever came first goes first, whosever question it is, and nobody has slots of their own."""

    def next(self, among: Callable[[TenantId], bool] = anybody, *, ready: Callable[[TenantId], bool] = anybody) -> int | None:
        if not len(self) or among is not anybody:
            return None
        return self._remove(min(self._lines, key=lambda tenant: self._lines[tenant][0]), 0)


class Crowd:
    def __init__(self, turns: Turns, at_once: int, telemetry: Telemetry) -> None:
        self.engine = SimulatedEngine()
        self.worker = FakeWorker("worker-1", FakeHost())
        self.pool = WorkerPool([self.worker], Ledger(), at_once=at_once)
        limits = Limits(max_waiting=10 * FLOOD, max_share=1.0, max_wait_s=3600)
        self.queue = Queue(self.pool, turns, telemetry, limits, weight_of=lambda _: 1.0, clock=now)
        self.version = ready("v")
        self.heavy = 0
        self.numbers = itertools.count()

    async def ask(self, tenant: TenantId, kind: Kind) -> float:
        """One question to its end; the seconds to its first token."""
        started, length = now(), kind.length(next(self.numbers))
        with self.queue.ticket(tenant) as ticket:
            worker = await ticket.turn(self.version, lambda _: kind.compute)
            with self.pool.waiting(worker):
                answer = await self.engine.answer(compute=kind.compute, generate=length)
            first_s = now() - started
            ticket.generated()
            for _ in range(length - 1):
                await answer.tokens.get()
                ticket.generated()
            ticket.settle(Usage(PROMPT, length, PROMPT - kind.compute))
        return first_s

    async def flood(self, kind: Kind) -> None:
        async def one() -> None:
            while True:
                await self.ask(HEAVY, kind)
                self.heavy += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(FLOOD):
                group.create_task(one())

    async def read(self) -> None:
        """Documents are read, one after the other, as `gateway/ingestion/reader.py` does it."""
        while True:
            await self.pool.quiet(self.worker, at_most_s=0.5)
            with self.pool.slot(self.worker, beside=True):
                await self.engine.answer(compute=SEGMENT, generate=1)

    async def beside(self, flood: Kind | None, *, reading: bool, questions: int) -> Figures:
        await self.pool.check()
        others = [asyncio.ensure_future(self.flood(flood))] if flood is not None else []
        others += [asyncio.ensure_future(self.read())] if reading else []
        await asyncio.sleep(REST_S)
        took = []
        for _ in range(questions):
            took.append(await self.ask(LIGHT, WARM))
            await asyncio.sleep(REST_S)
        a_second = self.heavy / now()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return Figures(took, a_second)


def figures(
    flood: Kind | None, *, turns: type[Turns] = Turns, at_once: int = SEQUENCES - SPARE, reading: bool = False, questions: int = 200
) -> Figures:
    """What becomes of the light tenant beside the other one's `flood`. `at_once` above the engine's own: it is the engine's queue."""
    telemetry = Telemetry()
    try:
        return simulated(Crowd(turns(), at_once, telemetry).beside(flood, reading=reading, questions=questions))
    finally:
        telemetry.close()
