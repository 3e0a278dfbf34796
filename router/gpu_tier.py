"""What each worker holds on its GPU tier, followed from its KV events.

A prefix is a chain of blocks; only its first block names the salt, the others their parent. Blocks beyond a
document's prefix (questions, answers) hang on the same chain and are not counted for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from router.documents import Salt, Version

BlockHash = int | bytes


class GpuTier:
    """One worker's blocks. `check()` states what holds between events."""

    def __init__(self) -> None:
        self._blocks: dict[BlockHash, tuple[Salt, int]] = {}
        """Each block's salt and its number in the chain."""
        self._counts: dict[Salt, Counter[int]] = {}
        """How many blocks stand at each number of a salt's chains: they branch where questions differ."""
        self._runs: dict[Salt, int] = {}
        self._block_tokens = 0

    def __repr__(self) -> str:
        return f"<GpuTier {len(self._blocks)} blocks of {len(self._counts)} salts>"

    def stored(self, hashes: Sequence[BlockHash], parent: BlockHash | None, salt: Salt | None, block_tokens: int) -> None:
        """Blocks were stored in a row behind `parent`; `salt` is known where they begin a chain (parent None).

        Blocks of a chain whose beginning was never seen are ignored: nothing can be said of them.
        """
        if parent is None:
            number = 0
        elif parent in self._blocks:
            salt, before = self._blocks[parent]
            number = before + 1
        else:
            return
        if salt is None:
            return
        self._block_tokens = block_tokens
        for offset, block in enumerate(hashes):
            if block not in self._blocks:
                self._blocks[block] = (salt, number + offset)
                self._counts.setdefault(salt, Counter())[number + offset] += 1
        self._runs.pop(salt, None)

    def removed(self, hashes: Sequence[BlockHash]) -> None:
        for block in hashes:
            salt, number = self._blocks.pop(block, (None, 0))
            if salt is None:
                continue
            counts = self._counts[salt]
            counts[number] -= 1
            if not counts[number]:
                del counts[number]
            if not counts:
                del self._counts[salt]
            self._runs.pop(salt, None)

    def share(self, version: Version) -> float:
        """The share of the version's prefix that is here without a gap from its beginning, 0 to 1."""
        if not version.prefix_tokens:
            return 0.0
        return min(self._run(version.salt) * self._block_tokens / version.prefix_tokens, 1.0)

    def _run(self, salt: Salt) -> int:
        """How many blocks stand in a row from the first."""
        counts = self._counts.get(salt)
        if counts is None:
            return 0
        run = self._runs.get(salt)
        if run is None:
            run = self._runs[salt] = next((number for number in range(len(counts)) if number not in counts), len(counts))
        return run

    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""
        counted = Counter(self._blocks.values())
        kept = Counter({(salt, number): count for salt, counts in self._counts.items() for number, count in counts.items()})
        if counted != kept:
            raise AssertionError("the counts differ from the blocks")
