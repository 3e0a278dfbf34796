"""The ledger: which version is held in which tier of which worker or host, and which are in use.

A belief, rebuilt by observing (KV events of workers, events of the KV servers, files) and never needed for
correctness: where it is wrong, a question is slower, or its tier is misreported. Leases are the exception: they are
facts, and a leased version's KV is not deleted. Synchronous; reads no clock and no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

import msgspec

from router.chunk_tier import ChunkKey, ChunkTier
from router.documents import Salt, Version, VersionId
from router.gpu_tier import GpuTier

T = TypeVar("T")


class Tier(StrEnum):
    """Where a version's KV is, fastest first."""

    GPU = "gpu"
    RAM = "ram"
    DISK = "disk"
    NONE = "none"
    UNKNOWN = "unknown"
    """Not on the worker's GPU tier, and the host can't be seen."""


class Holding(msgspec.Struct, frozen=True):
    """How much of a version one tier of one worker or host holds: a share of its prefix, 0 to 1, and bytes."""

    tier: Tier
    where: str
    """The worker's name for the GPU tier, the host's for the others."""
    share: float
    size_bytes: int


class Ledger:
    def __init__(self, hosts: Mapping[str, str] | None = None) -> None:
        """`hosts`: the name of each worker's host, where its KV server is. A worker that isn't named has none."""
        self._hosts = dict(hosts or {})
        self._leases: Counter[VersionId] = Counter()
        self._leased_salts: Counter[Salt] = Counter()
        self._gpu: dict[str, GpuTier] = {}
        self._ram: dict[str, ChunkTier] = {host: ChunkTier() for host in self._hosts.values()}
        self._disk: dict[str, ChunkTier] = {host: ChunkTier() for host in self._hosts.values()}
        self._keys: dict[Salt, tuple[ChunkKey, ...]] = {}
        self._token_bytes: float = 0.0

    def __repr__(self) -> str:
        return f"<Ledger gpu={self._gpu} ram={self._ram} disk={self._disk} leases={dict(self._leases)}>"

    # --- leases

    def lease(self, version: Version) -> None:
        self._leases[version.id] += 1
        self._leased_salts[version.salt] += 1

    def release(self, version: Version) -> None:
        """Give a lease back. Raises ValueError for one that was never taken."""
        if self._leases[version.id] < 1:
            raise ValueError(f"version {version.id} has no lease to release")
        _give_back(self._leases, version.id)
        _give_back(self._leased_salts, version.salt)

    def leased(self, version: VersionId) -> bool:
        return version in self._leases

    def in_use(self, salt: Salt) -> bool:
        """Whether any version of this salt is leased: deleted and added again, a text has two."""
        return salt in self._leased_salts

    # --- what is observed

    def gpu(self, worker: str) -> GpuTier:
        """What this worker is believed to hold; its events are applied to it."""
        return self._gpu.setdefault(worker, GpuTier())

    def ram(self, host: str) -> ChunkTier:
        """What this host's KV server is believed to hold in RAM; its events are applied to it."""
        return self._ram.setdefault(host, ChunkTier())

    def disk(self, host: str) -> ChunkTier:
        """What is believed to lie on this host's disk; what is seen there is applied to it."""
        return self._disk.setdefault(host, ChunkTier())

    def forget_worker(self, worker: str) -> None:
        """It restarted, or events were missed: nothing is known of its GPU tier any more."""
        self._gpu.pop(worker, None)

    def forget_ram(self, host: str) -> None:
        """The host's KV server restarted, or events were missed: nothing is known of its RAM any more."""
        self._ram[host] = ChunkTier()

    def know(self, salt: Salt, keys: Sequence[ChunkKey]) -> None:
        """The chunk keys of a version, in order. Until they are known nothing is believed to be held of it."""
        self._keys[salt] = tuple(keys)

    def keys(self, salt: Salt) -> tuple[ChunkKey, ...]:
        """A version's chunk keys in order, none where they aren't known."""
        return self._keys.get(salt, ())

    def weigh(self, token_bytes: float) -> None:
        """What a token's KV takes, in bytes: to tell the size of what is on a GPU."""
        self._token_bytes = token_bytes

    def size_bytes(self, version: Version) -> int:
        """What all of the version's KV takes; 0 where a token's isn't known."""
        return round(version.prefix_tokens * self._token_bytes)

    def forget(self, version: Version) -> None:
        """The version was deleted from every host; workers tell of their own tier by events."""
        for tier in (*self._ram.values(), *self._disk.values()):
            tier.forget(version.salt)
        self._keys.pop(version.salt, None)

    # --- what is believed

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(self._ram)

    def host_of(self, worker: str) -> str | None:
        return self._hosts.get(worker)

    def gpu_share(self, version: Version, worker: str) -> float:
        """The share of the version's prefix on this worker's GPU tier, 0 to 1."""
        return self._gpu[worker].share(version) if worker in self._gpu else 0.0

    def ram_share(self, version: Version, host: str | None) -> float:
        """The share of the version's prefix in this host's RAM, without a gap from its beginning, 0 to 1."""
        return self._share(version, self._ram.get(host) if host is not None else None)

    def disk_share(self, version: Version, host: str | None) -> float:
        """The share of the version's prefix on this host's disk, without a gap from its beginning, 0 to 1."""
        return self._share(version, self._disk.get(host) if host is not None else None)

    def tier(self, version: Version, worker: str) -> Tier:
        """The slowest tier that a question to this worker has to reach for the whole prefix; NONE if some of it is nowhere."""
        host = self._hosts.get(worker)
        gpu, ram = self.gpu_share(version, worker), self.ram_share(version, host)
        if gpu >= 1:
            return Tier.GPU
        if max(gpu, ram) >= 1:
            return Tier.RAM
        return Tier.DISK if max(gpu, ram, self.disk_share(version, host)) >= 1 else Tier.NONE

    def share(self, version: Version, worker: str) -> float:
        """The share of the version's prefix that this worker need not compute, from whatever tier of it or its host."""
        if (gpu := self.gpu_share(version, worker)) >= 1:
            return gpu
        host = self._hosts.get(worker)
        return max(gpu, self.ram_share(version, host), self.disk_share(version, host))

    def holdings(self, version: Version) -> tuple[Holding, ...]:
        """Everything that is held of the version, wherever there is any of it."""
        found = []
        for worker, gpu in self._gpu.items():
            if share := gpu.share(version):
                found.append(Holding(Tier.GPU, worker, share, round(share * self.size_bytes(version))))
        for tier, hosts in ((Tier.RAM, self._ram), (Tier.DISK, self._disk)):
            for host, chunks in hosts.items():
                if version.salt in chunks.salts:  # its size may not be known
                    found.append(Holding(tier, host, self._share(version, chunks), chunks.size_bytes(version.salt)))
        return tuple(found)

    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""
        if any(count < 1 for count in (*self._leases.values(), *self._leased_salts.values())):
            raise AssertionError(f"leases below one: {self._leases}")
        if self._leases.total() != self._leased_salts.total():
            raise AssertionError("the leases of versions and of salts differ")
        tiers: Iterable[GpuTier | ChunkTier] = (*self._gpu.values(), *self._ram.values(), *self._disk.values())
        for tier in tiers:
            tier.check()

    def _share(self, version: Version, tier: ChunkTier | None) -> float:
        keys = self._keys.get(version.salt)
        if tier is None or not keys:
            return 0.0
        return tier.run(version.salt, keys) / len(keys)


def _give_back(leases: Counter[T], key: T) -> None:
    leases[key] -= 1
    if not leases[key]:
        del leases[key]
