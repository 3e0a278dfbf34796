"""Questions to a version whose KV is nowhere: room is made for what they write, and the first one reads for all of them.

Such a question is never refused. Where there is no room, it is answered all the same and nothing of it is kept.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from gateway.tiers.disk_keeper import DiskKeeper, HasCatalog
from gateway.tiers.hosts import Hosts
from router.documents import Version, VersionId
from router.errors import StorageFull

log = structlog.get_logger("cold")

SEEN_WITHIN_S = 30.0
POLL_S = 0.2


class ColdQuestions:
    def __init__(self, hosts: Hosts, keeper: DiskKeeper) -> None:
        self._hosts = hosts
        self._keeper = keeper
        self._turns: defaultdict[VersionId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting: Counter[VersionId] = Counter()
        self._reading: dict[VersionId, asyncio.Event] = {}
        """What is set when the turn that somebody has now is over."""
        self._settling: dict[tuple[VersionId, str | None], asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        waiting = sum(self._waiting.values())
        return f"<ColdQuestions {waiting} in {len(self._turns)} turns, {len(self._settling)} being stored>"

    @asynccontextmanager
    async def turn(self, version: Version) -> AsyncIterator[None]:
        """One at a time for each version, until its first token: those behind find the KV there."""
        self._waiting[version.id] += 1
        try:
            async with self._turns[version.id]:
                over = self._reading[version.id] = asyncio.Event()
                try:
                    yield
                finally:
                    del self._reading[version.id]
                    over.set()
        finally:
            self._waiting[version.id] -= 1
            if not self._waiting[version.id]:
                del self._waiting[version.id], self._turns[version.id]

    def busy(self, version: Version) -> bool:
        """Whether a question has the version's turn now."""
        return version.id in self._reading

    async def over(self, version: Version) -> None:
        """Return once no question has the version's turn; who waits so takes none. Whoever goes on at once may have the next."""
        while (over := self._reading.get(version.id)) is not None:
            await over.wait()

    async def keeps(self, shelf: HasCatalog, version: Version, host: str | None) -> bool:
        """Whether there is room for the version's KV on this host, which is then promised to it until `written`."""
        try:
            await self._keeper.admit(shelf, version, host)
        except StorageFull as error:
            log.info("cold_question_not_kept", version=version.id, why=str(error))
            return False
        return True

    def written(self, version: Version, ids: Sequence[int], host: str | None) -> None:
        """The question is answered. Storing goes on behind it: the promise ends once all is seen, or after a while."""
        key = version.id, host
        if (before := self._settling.get(key)) is not None:
            before.cancel()  # one look for all who asked
        task = self._settling[key] = asyncio.create_task(self._seen(version, ids, host))
        task.add_done_callback(lambda task: self._settle(task, version, host))

    async def close(self) -> None:
        tasks = tuple(self._settling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _seen(self, version: Version, ids: Sequence[int], host: str | None) -> None:
        try:
            async with asyncio.timeout(SEEN_WITHIN_S):
                while True:
                    if await self._hosts.stored(version, ids, host):
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            log.info("cold_question_not_stored", version=version.id, host=host)
        except OSError as error:
            log.warning("cold_question_not_seen", version=version.id, host=host, error=str(error))

    def _settle(self, task: asyncio.Task[None], version: Version, host: str | None) -> None:
        """Called when the look ended, also where it was cancelled before it began."""
        self._keeper.settle(version, host)
        if self._settling.get((version.id, host)) is task:
            del self._settling[version.id, host]
