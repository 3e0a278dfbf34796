"""The ledger: which version is held in which tier, and which are in use.

A belief, rebuilt by observing (KV events, RAM bytes, files) and never needed for correctness: where it is wrong,
a question is slower, or its tier is misreported. Leases are the exception: they are facts, and a leased version's
KV is not deleted. Synchronous; reads no clock and no network.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import msgspec

from router.documents import Salt, Version, VersionId
from router.gpu_tier import GpuTier


class Tier(StrEnum):
    """Where a version's KV is, fastest first."""

    GPU = "gpu"
    RAM = "ram"
    DISK = "disk"
    NONE = "none"


class Held(msgspec.Struct, frozen=True):
    """How much of one version's prefix the host's KV server has, each 0 to 1."""

    ram: float = 0.0
    disk: float = 0.0


class Ledger:
    def __init__(self) -> None:
        self._leases: Counter[VersionId] = Counter()
        self._gpu: dict[str, GpuTier] = {}
        self._held: dict[Salt, Held] = {}

    def __repr__(self) -> str:
        return f"<Ledger gpu={self._gpu} hosts={len(self._held)} leases={dict(self._leases)}>"

    # --- leases

    def lease(self, version: VersionId) -> None:
        self._leases[version] += 1

    def release(self, version: VersionId) -> bool:
        """Give a lease back; True if it was the last. Raises ValueError for one that was never taken."""
        if self._leases[version] < 1:
            raise ValueError(f"version {version} has no lease to release")
        self._leases[version] -= 1
        if self._leases[version]:
            return False
        del self._leases[version]
        return True

    def leased(self, version: VersionId) -> bool:
        return version in self._leases

    # --- beliefs

    def gpu(self, worker: str) -> GpuTier:
        """What this worker is believed to hold; its events are applied to it."""
        return self._gpu.setdefault(worker, GpuTier())

    def forget_worker(self, worker: str) -> None:
        """It restarted, or events were missed: nothing is known of its GPU tier any more."""
        self._gpu.pop(worker, None)

    def observe_host(self, salt: Salt, held: Held) -> None:
        self._held[salt] = held

    def forget(self, version: Version) -> None:
        """The version was deleted from the host; workers tell of their own tier by events."""
        self._held.pop(version.salt, None)

    def gpu_share(self, version: Version, worker: str) -> float:
        """The share of the version's prefix on this worker's GPU tier, 0 to 1."""
        return self._gpu[worker].share(version) if worker in self._gpu else 0.0

    def held(self, version: Version) -> Held:
        return self._held.get(version.salt, Held())

    def tier(self, version: Version, worker: str) -> Tier:
        """The slowest tier that a question to this worker has to reach for the whole prefix; NONE if some of it is nowhere."""
        gpu, held = self.gpu_share(version, worker), self.held(version)
        if gpu >= 1:
            return Tier.GPU
        if max(gpu, held.ram) >= 1:
            return Tier.RAM
        return Tier.DISK if max(gpu, held.ram, held.disk) >= 1 else Tier.NONE

    def check(self) -> None:
        """Raises AssertionError where an invariant is broken."""
        if any(count < 1 for count in self._leases.values()):
            raise AssertionError(f"leases below one: {self._leases}")
        for tier in self._gpu.values():
            tier.check()
        if any(not (0 <= held.ram <= 1 and 0 <= held.disk <= 1) for held in self._held.values()):
            raise AssertionError("a share outside 0..1")
