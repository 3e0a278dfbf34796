"""Keeps the tiers in order beside the questions: what lies on the disks is looked at, what nobody wants is removed.

1. At start every version's chunk keys are learnt, so that the ledger can tell a whole one from one with a gap.
2. Again and again: the disks are looked at; half-written files and KV without a document are removed, files that
   are no chunks reported; what is over the budget is evicted; expired documents lose their KV; a pinned one that
   lost it is read again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import structlog

from backends.base import DiskScan, Store
from gateway.sections import Disk as DiskConfig
from gateway.shelf.documents import Shelf
from gateway.tiers.disk_keeper import DiskKeeper
from gateway.tiers.hosts import Hosts
from gateway.upkeep.moves import Moves
from router.documents import Document, Salt, VersionState
from router.errors import KvshelfError, NotFound, StoreUnavailable
from router.prompts import ids_from_bytes
from router.residency import Ledger, Tier

log = structlog.get_logger("housekeeper")

REST_S = 0.2
"""Between two looks at least."""


class Housekeeper:
    def __init__(
        self,
        store: Store,
        shelf: Shelf,
        hosts: Hosts,
        keeper: DiskKeeper,
        moves: Moves,
        ledger: Ledger,
        config: DiskConfig,
        *,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._hosts = hosts
        self._keeper = keeper
        self._moves = moves
        self._ledger = ledger
        self._config = config
        self._now = now
        self.foreign: dict[str, tuple[str, ...]] = {}
        """Files in each host's disk tier that are no chunks: left alone."""

    async def run(self) -> None:
        """Look and tidy up until cancelled."""
        await self.learn()
        while True:
            tidied_at, look_at = self._now(), time.monotonic() + self._config.look_every_s
            await self.tidy()
            await asyncio.sleep(REST_S)
            await self._until_due(tidied_at, look_at)

    async def learn(self) -> None:
        """Make every version's chunk keys known to the ledger."""
        for document in tuple(self._shelf.catalog):
            for version in document.versions:
                if self._ledger.keys(version.salt):
                    continue
                try:
                    content = await self._store.content(version.id)
                except NotFound:
                    continue
                except StoreUnavailable as error:
                    log.warning("keys_not_learnt", error=str(error))
                    return  # a version's first question learns them as well
                self._hosts.know(version, ids_from_bytes(content.prefix_ids))

    async def tidy(self) -> None:
        """Once through everything. What fails is said and tried again the next time."""
        scans = await self._hosts.scan()
        try:
            await self._collect(scans)
        except (KvshelfError, OSError) as error:
            log.warning("orphans_not_collected", error=str(error))
        self._report_foreign(scans)
        await self._keeper.keep(self._shelf)
        for document in tuple(self._shelf.catalog):
            await self._retain(document)

    # --- inside

    async def _collect(self, scans: Mapping[str, DiskScan]) -> None:
        """Remove what was left half-written, and KV that no version has and nobody will ask for again."""
        unlinked = {version.salt for version in await self._store.unlinked_versions()}
        for host, scan in scans.items():
            server = self._hosts.get(host)
            if server is not None and scan.partial and (removed := await server.remove_partial(scan.partial)):
                log.info("partial_files_removed", host=host, files=removed)
            known = unlinked | {version.salt for document in self._shelf.catalog for version in document.versions}
            for salt in set(scan.chunks) - known:
                if scan.ages_s.get(salt, 0.0) >= self._config.orphan_after_s:
                    await self._remove(host, salt, scan)

    async def _remove(self, host: str, salt: Salt, scan: DiskScan) -> None:
        await self._hosts.delete(salt, tuple(scan.chunks[salt]), host=host)
        log.info("orphan_removed", host=host, salt=salt[:12], size_bytes=sum(scan.chunks[salt].values()))

    def _report_foreign(self, scans: Mapping[str, DiskScan]) -> None:
        for host, scan in scans.items():
            if scan.foreign != self.foreign.get(host, ()):
                log.warning("foreign_files", host=host, files=scan.foreign[:20], count=len(scan.foreign), consequence="left alone")
            self.foreign[host] = scan.foreign

    async def _retain(self, document: Document) -> None:
        """An expired document's KV goes; a pinned one's that was lost is read again."""
        version = document.current
        if version is None or version.state is not VersionState.READY:
            return
        try:
            if document.expired(self._now()):
                if self._held(version.salt, (Tier.RAM, Tier.DISK)) and not self._ledger.in_use(version.salt):
                    await self._moves.settled(self._moves.evict(document, None, why="it expired"))
            elif document.pinned and self._is_lost(document):
                self._moves.warm(document, Tier.DISK, why="it is pinned, and was on no disk")
        except KvshelfError as error:
            log.info("not_retained", document=document.id, why=str(error))

    def _held(self, salt: Salt, tiers: Iterable[Tier]) -> bool:
        look = {Tier.RAM: self._ledger.ram, Tier.DISK: self._ledger.disk}
        return any(salt in look[tier](host).salts for tier in tiers for host in self._ledger.hosts)

    def _is_lost(self, document: Document) -> bool:
        """On no disk that can be seen is all of it."""
        seen = [server.name for server in self._hosts if server.sees_disk]
        version = document.current
        return version is not None and bool(seen) and all(self._ledger.disk_share(version, host) < 1 for host in seen)

    async def _until_due(self, tidied_at: float, look_at: float) -> None:
        """Return when it is time to look again (monotonic), or a document has expired since: also one that came meanwhile."""
        while True:
            change = self._shelf.change
            ends = [d.expires_at for d in self._shelf.catalog if d.expires_at is not None and d.expires_at > tidied_at]
            wait_s = min(look_at - time.monotonic(), min(ends, default=math.inf) - self._now())
            if wait_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await change.wait()
