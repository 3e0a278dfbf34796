"""Clears versions that no document points to any more: their KV from every tier, then their row.

Replaced and deleted versions stay stored, unlinked, until this is done, so that nothing is left behind by a crash.
A version that a question still uses is spared until its lease is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from backends.base import Store
from gateway.shelf.classifier import Classifier
from gateway.shelf.documents import Shelf
from gateway.shelf.prefixes import PrefixCache
from gateway.tiers.hosts import Hosts
from router.documents import Version
from router.errors import KvshelfError
from router.prompts import ids_from_bytes
from router.residency import Ledger

log = structlog.get_logger("reaper")

SETTLE_S = 0.3
RETRY_S = 30.0


class Reaper:
    def __init__(
        self, store: Store, shelf: Shelf, ledger: Ledger, prefixes: PrefixCache, classifier: Classifier, hosts: Hosts
    ) -> None:
        self._store = store
        self._shelf = shelf
        self._ledger = ledger
        self._prefixes = prefixes
        self._classifier = classifier
        self._hosts = hosts

    async def run(self) -> None:
        """Clear after every change of the catalog, and again now and then, until cancelled."""
        while True:
            change = self._shelf.change
            await self.clear()
            try:
                async with asyncio.timeout(RETRY_S):
                    await change.wait()
                # A reading reports its progress often; changes close together are cleared for once.
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass

    async def clear(self) -> int:
        """Clear what can be cleared now; returns how many versions were."""
        cleared = 0
        try:
            unlinked = await self._store.unlinked_versions()
            for version in unlinked:
                if not self._ledger.leased(version.id) and await self._clear(version, unlinked):
                    cleared += 1
        except KvshelfError as error:
            log.warning("clearing_postponed", error=str(error))
        return cleared

    async def _clear(self, version: Version, unlinked: Sequence[Version]) -> bool:
        content = await self._store.content(version.id)
        if not self._kv_in_use(version, unlinked):
            try:
                keys = self._hosts.know(version, ids_from_bytes(content.prefix_ids))
                await self._hosts.delete(version.salt, keys)
            except OSError as error:
                log.warning("kv_not_deleted", version=version.id, error=str(error))
                return False
            self._ledger.forget(version)
        self._prefixes.drop(version.id)
        self._classifier.forget(version.id)
        await self._store.remove_version(version.id)
        log.info("version_cleared", version=version.id)
        return True

    def _kv_in_use(self, version: Version, unlinked: Sequence[Version]) -> bool:
        """Whether another version has the same salt, as it has the same content, and is linked or leased: their KV is one."""
        linked = (link for document in self._shelf.catalog for link in (document.current, document.incoming) if link is not None)
        leased = (other for other in unlinked if self._ledger.leased(other.id))
        return any(other.salt == version.salt and other.id != version.id for other in (*linked, *leased))
