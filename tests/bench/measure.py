"""Timing one HTTP exchange after another, or many at once, and saying it in a table. Ratios are within one run."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

console = Console()


@dataclass(frozen=True)
class Times:
    """Seconds, one entry an exchange."""

    seconds: Sequence[float]

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[min(int(len(self.seconds) * 0.99), len(self.seconds) - 1)]


async def timed(exchange: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await exchange()
    return time.perf_counter() - started


async def alternately(exchanges: Sequence[Callable[[], Awaitable[float]]], rounds: int, *, warm_up: int) -> list[Times]:
    """Each in turn, round after round, so that a drift of the machine's speed meets all alike."""
    taken: list[list[float]] = [[] for _ in exchanges]
    for number in range(warm_up + rounds):
        for exchange, seconds in zip(exchanges, taken, strict=True):
            value = await exchange()
            if number >= warm_up:
                seconds.append(value)
    return [Times(seconds) for seconds in taken]


async def at_once(exchange: Callable[[], Awaitable[Any]], *, connections: int, seconds: float) -> float:
    """Exchanges a second with so many under way at all times."""
    ends = time.perf_counter() + seconds
    done = 0

    async def one() -> None:
        nonlocal done
        while time.perf_counter() < ends:
            await exchange()
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return done / (time.perf_counter() - started)


async def until_ok(session: aiohttp.ClientSession, url: str, *, within_s: float) -> None:
    """Poll `url` until it answers 200. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
