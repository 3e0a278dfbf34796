"""What stands for documents in volumes, made of what stands for each volume: all of it where the document is to be found, an
index of the volumes where one of them is. Both are kept as long as the volumes are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.shelf.index import Features, Index, joined
from router.documents import Document, Key


class VolumeFeatures:
    def __init__(self) -> None:
        self._joined: dict[Key, tuple[list[Features], Features]] = {}
        self._indexes: dict[Key, tuple[list[Features], Index]] = {}

    def joined(self, document: Document, parts: list[Features]) -> Features:
        """What stands for the whole document: the same object for the same parts."""
        key = (document.owner, document.id)
        known = self._joined.get(key)
        if known is None or not same(known[0], parts):
            known = self._joined[key] = parts, joined(parts)
        return known[1]

    async def index(self, document: Document, volumes: Sequence[Document], parts: list[Features]) -> Index:
        """Of the document's volumes, in their order."""
        key = (document.owner, document.id)
        known = self._indexes.get(key)
        if known is None or not same(known[0], parts):
            known = self._indexes[key] = parts, await asyncio.to_thread(Index, volumes, parts)
        return known[1]

    def forget(self, features: Features) -> None:
        """A version that these stood for is gone."""
        for kept in (self._joined, self._indexes):
            for key in [key for key, (parts, _) in kept.items() if any(part is features for part in parts)]:
                del kept[key]


def same(one: Sequence[Features], other: Sequence[Features]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
