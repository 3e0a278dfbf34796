"""Which worker answers: filter (healthy, not full), score (what it holds, how busy it is), pick (a stable hash breaks ties)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from router.documents import VersionId


class WorkerView(msgspec.Struct, frozen=True):
    """A worker as the gateway believes it to be now. `holds` is the share of the version on its GPU tier, 0 to 1."""

    name: str
    healthy: bool
    running: int
    capacity: int
    holds: float = 0.0


def choose(version: VersionId, workers: Iterable[WorkerView], *, avoid: frozenset[str] = frozenset()) -> str | None:
    """The worker's name, or None where none can take it. `avoid` names those that have just failed."""
    able = [w for w in workers if w.healthy and w.running < w.capacity and w.name not in avoid]
    return max(able, key=lambda w: (_score(w), _rendezvous(version, w.name))).name if able else None


def _score(worker: WorkerView) -> float:
    """Restoring from RAM costs about what three queued questions do: a held document outweighs a shorter queue, up to half full."""
    return worker.holds - 2 * worker.running / worker.capacity


def _rendezvous(version: VersionId, worker: str) -> bytes:
    """Highest random weight: a worker that joins or leaves moves only its own share of the versions."""
    return hashlib.blake2b(f"{version}\0{worker}".encode(), digest_size=8).digest()
