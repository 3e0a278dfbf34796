"""Removes what tenants used so long ago that it is kept no longer (`usage.keep_days`): at start, and then once a day."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable

import structlog

from backends.base import Store
from router.errors import StoreUnavailable

log = structlog.get_logger("usage")

EVERY_S = 86_400.0
RETRY_S = 60.0
"""After the database did not take it."""


class UsagePruner:
    def __init__(self, store: Store, *, keep_days: int | None, now: Callable[[], float]) -> None:
        """`keep_days`: before today; None for all."""
        self._store = store
        self._keep_days = keep_days
        self._now = now

    async def run(self) -> None:
        """Remove now and once a day, until cancelled; returns where everything is kept."""
        while self._keep_days is not None:
            try:
                await self.prune(self._keep_days)
            except StoreUnavailable as error:
                log.warning("usage_not_pruned", error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(EVERY_S)

    async def prune(self, keep_days: int) -> None:
        """Remove what was used more than so many days before today, in UTC. Raises StoreUnavailable."""
        before = first_kept(self._now(), keep_days)
        if removed := await self._store.remove_usage(before):
            log.info("usage_pruned", rows=removed, before=before)


def first_kept(now: float, keep_days: int) -> str:
    """The first day, of UTC, that is kept.

    >>> first_kept(1_795_521_600.0, 1), first_kept(1_795_521_600.0, 400)
    ('2026-11-23', '2025-10-20')
    """
    today = datetime.datetime.fromtimestamp(now, datetime.UTC).date()
    return (today - datetime.timedelta(days=keep_days)).isoformat()
