"""The versions' prefixes, ready to be sent: read from the store once, encoded once, kept while there is room."""

from __future__ import annotations

import array
import asyncio
from collections import OrderedDict

import msgspec

from backends.base import Store
from router.documents import Version, VersionId
from router.prompts import ids_from_bytes
from router.upstream import opening

ROOM_BYTES = 64 * 2**20


class PreparedPrefix(msgspec.Struct, frozen=True):
    ids: array.array[int]
    opening: bytes
    """The upstream body up to the end of the prefix."""

    @property
    def size_bytes(self) -> int:
        return len(self.opening) + self.ids.itemsize * len(self.ids)


class PrefixCache:
    """Least recently used first out. Several askers of one version wait for one reading of the store."""

    def __init__(self, store: Store, model: str, *, room_bytes: int = ROOM_BYTES) -> None:
        self._store = store
        self._model = model
        self._room_bytes = room_bytes
        self._kept: OrderedDict[VersionId, PreparedPrefix] = OrderedDict()
        self._size_bytes = 0
        self._loading: dict[VersionId, asyncio.Task[PreparedPrefix]] = {}

    def __repr__(self) -> str:
        return f"<PrefixCache {len(self._kept)} prefixes, {self._size_bytes} bytes>"

    async def get(self, version: Version) -> PreparedPrefix:
        """Raises NotFound where the version was removed meanwhile."""
        kept = self._kept.get(version.id)
        if kept is not None:
            self._kept.move_to_end(version.id)
            return kept
        task = self._loading.get(version.id)
        if task is None:
            task = self._loading[version.id] = asyncio.create_task(self._load(version.id))
            task.add_done_callback(lambda _: self._loading.pop(version.id, None))
        return await asyncio.shield(task)  # one asker's departure must not fail the others

    def prepared(self, ids: array.array[int]) -> PreparedPrefix:
        """These ids, ready to be sent."""
        return PreparedPrefix(ids, opening(self._model, ids))

    def drop(self, version_id: VersionId) -> None:
        kept = self._kept.pop(version_id, None)
        if kept is not None:
            self._size_bytes -= kept.size_bytes

    async def _load(self, version_id: VersionId) -> PreparedPrefix:
        ids = ids_from_bytes((await self._store.content(version_id)).prefix_ids)
        prepared = self.prepared(ids)
        self._kept[version_id] = prepared
        self._size_bytes += prepared.size_bytes
        while self._size_bytes > self._room_bytes and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))
        return prepared
