"""What each tier costs and gives, on the real engine: one document of 6,400 tokens, one worker, through the gateway.

Of what is brought to RAM ahead of its question, one row is asked for (`warm`), the other the gateway's own: it has
learned what a tenant asks after what, or asks often. Both rows after a restart are the first answer of a worker and a KV
server that have just begun.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from gateway.sections import Disk, Ram
from tests.bench import measure
from tests.engine import counters
from tests.engine.conftest import CONTRACT, RealGateway
from tests.fakes.gateway import eventually

ROUNDS = 5
COLD_ROUNDS = 2
RESTARTS = 3
HABIT = 6
"""How often the one document is asked after the other before that counts as known."""
DOCUMENT, BEFORE = "contract", "policy"
QUESTION = "What is the number of this contract?"

Prepare = Callable[[RealGateway], Awaitable[None]]


class Measured:
    """Some answers from one tier, with what the engine counted of each."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers: list[dict[str, Any]] = []
        self.hits: list[counters.Hits] = []
        self.held_bytes = 0

    def row(self, cold_s: float) -> list[str]:
        answer, hits = self.answers[-1], self.hits[-1]
        first_s = statistics.median(one["first_token_s"] for one in self.answers)
        return [
            self.name,
            answer["cache-tier"],
            str(len(self.answers)),
            f"{first_s:.2f}",
            f"{cold_s / first_s:.0f}",
            f"{self.held_bytes / 1e6:,.0f}",
            f"{answer['prompt_tokens'] - answer['cached_tokens']:,}",
            f"{hits.external:,}",
        ]


async def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measured = await _asked(Path(folder))
        measured.append(await _after_restarts(Path(folder)))
        measured += await _prefetching(Path(folder))
    cold_s = statistics.median(one["first_token_s"] for one in measured[0].answers)
    measure.show(
        "First token of 6,400 tokens from each tier (median), and tokens computed and restored for it",
        ["", "told", "times", "s", "× cold", "MB held", "computed", "restored"],
        [one.row(cold_s) for one in measured],
    )


async def _asked(folder: Path) -> list[Measured]:
    """What questions meet while the gateway brings nothing by itself."""
    async with _running(folder, prefetch=False) as gateway:
        await gateway.read(DOCUMENT, await asyncio.to_thread(CONTRACT.read_text, "utf-8"))
        await gateway.read(BEFORE, await asyncio.to_thread(CONTRACT.with_name("security-policy.md").read_text, "utf-8"))
        return [
            await _measure(gateway, Measured("cold"), _nothing, times=COLD_ROUNDS, tier="none", cold=True),
            await _measure(gateway, Measured("disk"), _on_disk, tier="disk"),
            await _measure(gateway, Measured("disk, brought by `warm`"), _warmed, tier="ram"),
            await _measure(gateway, Measured("RAM"), _in_ram, tier="ram"),
            await _measure(gateway, Measured("GPU"), _nothing, tier="gpu"),
        ]


async def _after_restarts(folder: Path) -> Measured:
    """The same files, each time after everything was stopped and started again."""
    measured = Measured("disk, after a restart")
    for _ in range(RESTARTS):
        async with _running(folder, prefetch=False) as gateway:
            await _measure(gateway, measured, _nothing, times=1, tier="disk")
    return measured


async def _prefetching(folder: Path) -> list[Measured]:
    """The same files, and the habits that the gateway learned of all questions so far."""
    restarted, live = Measured("… brought by itself"), Measured("disk, brought by itself")
    waited: dict[str, list[float]] = {restarted.name: [], live.name: []}

    async def brought(gateway: RealGateway, name: str) -> None:
        started = time.perf_counter()
        await eventually(lambda: _is_in_ram(gateway), within_s=30)
        waited[name].append(time.perf_counter() - started)

    async def followed(gateway: RealGateway) -> None:
        await _on_disk(gateway)
        await gateway.ask("How long is a password?", document=BEFORE, max_tokens=1)
        await brought(gateway, live.name)
        await asyncio.sleep(1)  # a person reads the answer

    with capture_logs() as logs:
        for number in range(RESTARTS):
            async with _running(folder, prefetch=True) as gateway:
                await brought(gateway, restarted.name)
                await _measure(gateway, restarted, _nothing, times=1, tier="ram")
                if number == RESTARTS - 1:
                    for _ in range(HABIT):
                        await gateway.ask("What is the first rule?", document=BEFORE, max_tokens=1)
                        await gateway.ask("What is the first clause?", document=DOCUMENT, max_tokens=1)
                    await _measure(gateway, live, followed, tier="ram")
    reasons = {entry["why"] for entry in logs if entry["event"] == "prefetched" and entry["done"]}
    measure.console.print(f"The gateway brought it because: {'; '.join(sorted(reasons))}.")
    for name, seconds in waited.items():
        measure.console.print(
            f"{name}: in RAM {statistics.median(seconds):.1f} s (median) after the start, or the question before."
        )
    return [restarted, live]


async def _nothing(_: RealGateway) -> None: ...


async def _in_ram(gateway: RealGateway) -> None:
    await gateway.reset_gpu("worker-1")


async def _on_disk(gateway: RealGateway) -> None:
    await gateway.move(DOCUMENT, "evict", tier="ram")
    await gateway.reset_gpu("worker-1")


async def _warmed(gateway: RealGateway) -> None:
    await _on_disk(gateway)
    await gateway.move(DOCUMENT, "warm", tier="ram")
    await eventually(lambda: _is_in_ram(gateway), within_s=5)


async def _measure(
    gateway: RealGateway, measured: Measured, prepare: Prepare, *, tier: str, times: int = ROUNDS, cold: bool = False
) -> Measured:
    version = await counters.version_of(gateway, DOCUMENT)
    for _ in range(times):
        await prepare(gateway)
        held = await counters.tiers(gateway, DOCUMENT)
        measured.held_bytes = 0 if cold else next((size for (where, _), (_, size) in held.items() if where == tier), 0)
        before = await counters.hits(gateway, version, "worker-1")
        measured.answers.append(await gateway.ask(QUESTION, document=DOCUMENT, cold=cold))
        measured.hits.append((await counters.hits(gateway, version, "worker-1")).less(before))
        if measured.answers[-1]["cache-tier"] != tier:
            measure.console.print(f"{measured.name}: told {measured.answers[-1]['cache-tier']}, not {tier}")
    return measured


async def _is_in_ram(gateway: RealGateway) -> bool:
    """All of it, as far as the ledger knows."""
    return (await counters.tiers(gateway, DOCUMENT)).get(("ram", "lmcache"), (0.0, 0))[0] == 1.0


@asynccontextmanager
async def _running(folder: Path, *, prefetch: bool) -> AsyncIterator[RealGateway]:
    gateway = RealGateway(
        folder, workers=1, may_reset=True, disk=Disk(scrub_mib_per_s=0), ram=Ram(policy="kvshelf" if prefetch else "density")
    )
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()
