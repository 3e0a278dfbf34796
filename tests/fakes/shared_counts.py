"""What several gateways count together, in this process: as `backends.shared_counts.SharedCounts`, with faults on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from backends.shared_counts import Away
from router.counts import Counts, Taken
from router.limits import Charge


class Shared:
    """Away while it is told so; while it `may` not, it does not answer."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.leases: set[str] = set()
        self.taken = 0
        self.away = False
        self.may = asyncio.Event()
        self.may.set()
        self.asked = asyncio.Event()

    async def open(self) -> None:
        await self._turn()

    async def take(self, charges: Sequence[Charge], now: float) -> Taken:
        await self._turn()
        self.taken += 1
        return self.counts.take(charges, now)

    async def give(self, charges: Sequence[Charge], now: float) -> None:
        await self._turn()
        self.counts.give(charges)

    async def lease(self, accounts: Any, lease: str, now: float) -> int | None:
        await self._turn()
        if len(self.leases) >= accounts[0][1]:
            return 0
        self.leases.add(lease)
        return None

    async def renew(self, accounts: Any, lease: str, now: float) -> None:
        await self._turn()
        self.leases.add(lease)

    async def release(self, accounts: Any, lease: str) -> None:
        await self._turn()
        self.leases.discard(lease)

    async def _turn(self) -> None:
        self.asked.set()
        await self.may.wait()
        if self.away:
            raise Away("no route to host")
