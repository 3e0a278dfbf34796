"""Which worker answers: filter (healthy, below its capacity and a fair load), score (seconds to the first token), pick.

Two rules make a document meet its KV without a table of who has which:

* **It stays where it is held.** The score is the time that a question about it would wait, so a worker that holds it wins until
  its queue costs more than a copy elsewhere does. Then the next worker answers, holds it too, and a hot document has spread;
  with the queues gone all holders are equal, the hash sends every question to one of them, and the others' copies age.
* **What nobody holds has a home.** Among workers that would take as long, the one with the highest hash of version and worker
  answers (rendezvous hashing): one that joins takes its share of the versions, one that leaves loses its own, no other moves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import msgspec

from router.documents import Version, VersionId

BALANCE = 1.25
"""A worker's load may be this many times the mean, and one question more (see `_fair`)."""

BATCH = 8
"""No load up to this is unfair: a worker computes so many requests in one batch (`max_sequences` of a local engine), so they hardly
wait for one another. With the bound of two or three that a few questions at once give by themselves, 19 documents on four hosts
were read 34 times in a simulation, each of the 15 to spare somebody less than a second's queue."""

TOLERANCE = 0.05
"""Workers tie that differ by less than this share of the restoring which no choice avoids: a queue of one or two
does not send a long reading away from its home. Nothing ties with a worker that holds everything but its equal."""


class WorkerView(msgspec.Struct, frozen=True):
    """A worker as the gateway believes it to be now. The shares are of the version's prefix, 0 to 1, from its beginning."""

    name: str
    healthy: bool
    running: int
    """Requests of this gateway's under way on it, at most `capacity`."""
    capacity: int
    elsewhere: int = 0
    """Requests on it that don't come from this gateway."""
    gpu: float = 0.0
    ram: float = 0.0
    """In the RAM of its host, as `disk` is on its disk."""
    disk: float = 0.0

    @property
    def load(self) -> int:
        return self.running + self.elsewhere


class Costs(msgspec.Struct, frozen=True):
    """What a question waits for, in seconds. The defaults are a small processor's, a GPU is faster in all of it: what decides
    is how they stand to one another."""

    ram_s: float = 0.04
    """1,000 tokens from the host's RAM: 6,400 took 0.37 s to the first token where the worker's own took 0.13."""
    disk_s: float = 0.3
    """1,000 tokens from the host's disk: the README's first table, restarted less warm, gives 0.2 to 0.4."""
    reading_s: float = 4.0
    """1,000 tokens read anew: the same table, cold less warm, gives 2.8 to 4.6, the more the longer the document."""
    question_s: float = 0.25
    """Each request that is before it: a warm question alone has its first token after 0.26 s."""


def choose(
    version: Version, workers: Iterable[WorkerView], costs: Costs | None = None, *, avoid: frozenset[str] = frozenset()
) -> str | None:
    """The worker's name, or None where none can take it. `avoid` names those that have just failed."""
    costs = costs or Costs()
    able = [w for w in workers if w.healthy and w.running < w.capacity and w.name not in avoid]
    if not able:
        return None
    fair = _fair(able)
    restoring = {w.name: restoring_s(version, w, costs) for w in fair}
    waits = {w.name: w.load * costs.question_s + restoring[w.name] for w in fair}
    latest = min(waits.values()) + TOLERANCE * min(restoring.values())
    return max((name for name, wait in waits.items() if wait <= latest), key=lambda name: _rendezvous(version.id, name))


def restoring_s(version: Version, worker: WorkerView, costs: Costs) -> float:
    """Seconds to bring to the worker's GPU what of the prefix is not there: from RAM as far as it reaches, then disk, then anew."""
    in_ram = max(worker.gpu, worker.ram)
    on_disk = max(in_ram, worker.disk)
    per_thousand = (in_ram - worker.gpu) * costs.ram_s + (on_disk - in_ram) * costs.disk_s + (1 - on_disk) * costs.reading_s
    return version.prefix_tokens / 1000 * per_thousand


def _fair(workers: Sequence[WorkerView]) -> list[WorkerView]:
    """Those that may take one more: whose load would not exceed 1.25 × the mean + 1, rounded up, or a batch. The least loaded may.

    Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (SODA 2018, arXiv 1608.01350): with such a bound a
    hot key overflows to the next few workers, and few keys move when workers come and go. The mean counts the question to be placed.
    """
    mean = (sum(w.load for w in workers) + 1) / len(workers)
    bound = max(math.ceil(BALANCE * mean + 1), BATCH)
    return [w for w in workers if w.load + 1 <= bound]


def _rendezvous(version: VersionId, worker: str) -> bytes:
    """Thaler and Ravishankar's highest random weight."""
    return hashlib.blake2b(f"{version}\0{worker}".encode(), digest_size=8).digest()
