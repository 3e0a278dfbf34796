"""What one host holds in RAM or on disk: chunks, told apart by salt.

A chunk's key covers all tokens up to its end, so a version's keys stand in a row (`Ledger.know`), and only what is
here without a gap from the first one spares any reading. Told of by the KV server's events and by looking at files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NewType

from router.documents import Salt

ChunkKey = NewType("ChunkKey", bytes)
"""The KV server's name of a chunk: a hash of its tokens and of all before them."""


class ChunkTier:
    """Chunks with their sizes in bytes. `check()` states what holds between calls."""

    def __init__(self) -> None:
        self._chunks: dict[Salt, dict[ChunkKey, int]] = {}
        self._sizes: dict[Salt, int] = {}
        self._runs: dict[Salt, tuple[Sequence[ChunkKey], int]] = {}
        """What `run` found last, for the very keys it was asked for."""
        self._looks: list[set[Salt]] = []
        self.total_bytes = 0

    def __repr__(self) -> str:
        return f"<ChunkTier {self.total_bytes} bytes of {len(self._chunks)} salts>"

    @property
    def salts(self) -> Mapping[Salt, int]:
        """Everything that is here, with its size in bytes."""
        return MappingProxyType(self._sizes)

    def stored(self, salt: Salt, key: ChunkKey, size_bytes: int) -> None:
        """The chunk is here, `size_bytes` long; 0 where that isn't known, which leaves a known size as it is."""
        chunks = self._chunks.setdefault(salt, {})
        before = chunks.get(key, 0)
        chunks[key] = size_bytes or before
        self._count(salt, chunks[key] - before)
        self._changed(salt)

    def removed(self, salt: Salt, key: ChunkKey) -> None:
        """The chunk is here no more. One that was never told of is no error."""
        chunks = self._chunks.get(salt)
        if chunks is None or key not in chunks:
            return
        self._count(salt, -chunks.pop(key))
        self._changed(salt)
        if not chunks:
            del self._chunks[salt], self._sizes[salt]

    def observed(self, salt: Salt, chunks: Mapping[ChunkKey, int]) -> None:
        """These chunks of the salt, with their sizes, are here and no others: somebody looked."""
        self.forget(salt)
        for key, size_bytes in chunks.items():
            self.stored(salt, key, size_bytes)

    def forget(self, salt: Salt) -> None:
        if self._chunks.pop(salt, None) is not None:
            self.total_bytes -= self._sizes.pop(salt)
            self._changed(salt)

    def looking(self) -> set[Salt]:
        """Somebody begins to look, which takes a while: the salts that change meanwhile, of which more is known than is seen.

        To be handed to `looked` once that is done.
        """
        changing: set[Salt] = set()
        self._looks.append(changing)
        return changing

    def looked(self, changing: set[Salt]) -> None:
        self._looks = [other for other in self._looks if other is not changing]

    def size_bytes(self, salt: Salt) -> int:
        return self._sizes.get(salt, 0)

    def run(self, salt: Salt, keys: Sequence[ChunkKey]) -> int:
        """How many of `keys` are here in a row from the first."""
        chunks = self._chunks.get(salt)
        if chunks is None:
            return 0
        known = self._runs.get(salt)
        if known is None or known[0] is not keys:
            run = next((number for number, key in enumerate(keys) if key not in chunks), len(keys))
            known = self._runs[salt] = (keys, run)
        return known[1]

    def keys(self, salt: Salt) -> tuple[ChunkKey, ...]:
        """The chunks of the salt that are here, in no order."""
        return tuple(self._chunks.get(salt, ()))

    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""
        sizes = {salt: sum(chunks.values()) for salt, chunks in self._chunks.items()}
        if sizes != self._sizes or sum(sizes.values()) != self.total_bytes:
            raise AssertionError("the sizes differ from the chunks")
        if not all(self._chunks.values()):
            raise AssertionError("a salt without a chunk is kept")

    def _count(self, salt: Salt, more_bytes: int) -> None:
        self._sizes[salt] = self._sizes.get(salt, 0) + more_bytes
        self.total_bytes += more_bytes

    def _changed(self, salt: Salt) -> None:
        self._runs.pop(salt, None)
        for changing in self._looks:
            changing.add(salt)
