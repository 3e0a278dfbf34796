"""What each key asked of each document on each day, and what it took: counted in memory, added to the database every few seconds.

Added and not put there: several gateways may count for one tenant. A clean end loses nothing, `kill -9` the last seconds.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Sequence

import structlog

from backends.base import Store
from gateway.saving import regularly
from router.errors import StoreUnavailable
from router.usage import Used

log = structlog.get_logger("usage")

SAVE_EVERY_S = 5.0
DAY_S = 86_400


class UsageBooks:
    def __init__(self, store: Store, *, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._unsaved: dict[tuple[str, str, str, str], Used] = {}
        self._saving = asyncio.Lock()
        self._save_task: asyncio.Task[None] | None = None
        self._today = (-1, "")

    def __repr__(self) -> str:
        return f"<UsageBooks, {len(self._unsaved)} rows to be saved>"

    @property
    def today(self) -> str:
        """The day of UTC, as 2026-11-24."""
        number = int(self._now() // DAY_S)
        if self._today[0] != number:
            day = datetime.datetime.fromtimestamp(number * DAY_S, datetime.UTC)
            self._today = number, day.strftime("%Y-%m-%d")
        return self._today[1]

    def book(self, used: Used) -> None:
        """Count this; its `day` is when it ended."""
        known = self._unsaved.get(used.place)
        self._unsaved[used.place] = used if known is None else known.plus(used)

    async def report(self, *, since: str, until: str, tenant: str | None, by: Sequence[str], most: int) -> list[Used]:
        """What was used from the day `since` to the day `until`, both included, up to now; all tenants' where none is named.

        Grouped by some of `router.usage.BY`, `most` rows at the most. Raises StoreUnavailable.
        """
        await self.save()
        return await self._store.usage(since=since, until=until, tenant=tenant, by=by, most=most)

    async def save(self) -> None:
        """Add what was counted to the database. What it does not take now is kept for the next time."""
        self._save_task = asyncio.create_task(self._save())
        await asyncio.shield(self._save_task)  # half done, it would not be known whether it counts

    async def run(self) -> None:
        """Save every few seconds, and at the end."""
        await regularly(self.save, SAVE_EVERY_S)

    async def _save(self) -> None:
        async with self._saving:
            rows, self._unsaved = self._unsaved, {}
            saved = False
            try:
                if rows:
                    await self._store.add_usage(tuple(rows.values()))
                saved = True
            except StoreUnavailable as error:
                log.warning("usage_not_saved", rows=len(rows), error=str(error))
            finally:
                if not saved:
                    for used in rows.values():
                        self.book(used)
