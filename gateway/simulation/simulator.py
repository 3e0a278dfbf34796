"""Runs one policy over one trace: three tiers with their sizes and times, the predictor and the planner as the gateway has them.

A question waits for what its document's KV needs, and for nothing else: workers and their queues are left out. Restoring for a
question goes before promotions, which share the disk with it while they overlap.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

import msgspec

from gateway.simulation.traces import READ_TOKENS_PER_S, Trace
from router.candidates import Candidate, Promotion, Snapshot
from router.policies import CHOICES, policy
from router.prediction import Predictor
from router.promotions import Kept, Promotions

GUESSES = 16
"""How many guesses the planner is given at a time."""


class Machine(msgspec.Struct, frozen=True):
    """Sizes and speeds. The figures are this project's own, of the demo machine (2 cores without a GPU) with 6,400 tokens."""

    token_bytes: int = 23_040
    """KV of a token of SmolLM2-135M in bfloat16: 6,400 tokens are 147 MB."""
    ram_share: float = 0.05
    gpu_share: float = 0.01
    disk_share: float = 1.0
    """Of all documents' bytes. The GPU and a disk below 1 keep the most recently used whole documents."""
    read_tokens_per_s: float = READ_TOKENS_PER_S
    """15 to 31 s for the first token when nothing is cached."""
    disk_latency_s: float = 0.05
    disk_bytes_per_s: float = 160e6
    """0.7 to 3.1 s for the first token from the encrypted disk tier; this makes it 1.0 s."""
    ram_bytes_per_s: float = 600e6
    """0.37 s for the first token from RAM, of which the question itself took 0.13 s."""


class Outcome(msgspec.Struct, frozen=True):
    served_fast: float
    """The share of questions whose document's KV was whole on the GPU or in RAM when they came."""
    bytes_moved: int
    """From disk to RAM, for questions and ahead of them, and KV that was read anew."""
    mean_wait_s: float
    """What a question waits for its document's KV, on average."""


def simulate(trace: Trace, name: str, machine: Machine | None = None) -> Outcome:
    """The policy of this name on this trace, everything on disk and nothing in RAM at its beginning. KeyError for an unknown name."""
    run = _Run(trace, name, machine or Machine())
    events = trace.events
    columns = (events.at_s.tolist(), events.tenant.tolist(), events.document.tolist(), events.changed.tolist())
    questions, fast, wait_s = 0, 0, 0.0
    following = iter([*columns[0][1:], float("inf")])
    for now, tenant, document, changed in zip(*columns, strict=True):
        run.advance(now)
        next_at = next(following)
        if changed:
            run.change(document, now)
            continue
        questions += 1
        fast += run.is_near(document)
        waited_s = run.ask(document, now)
        wait_s += waited_s
        if run.prefetches:
            run.predictor.asked(str(tenant), str(document), now)
            if now + waited_s < next_at:  # nobody waits
                run.promote(str(tenant), now + waited_s)
    return Outcome(fast / questions, run.bytes_moved, wait_s / questions)


class _Run:
    def __init__(self, trace: Trace, name: str, machine: Machine) -> None:
        self.machine = machine
        self.bytes_moved = 0
        self.sizes: list[int] = (trace.tokens * machine.token_bytes).tolist()
        self.keys = [str(document) for document in range(len(self.sizes))]
        """Each document's version."""
        total_bytes = sum(self.sizes)
        self.capacity_bytes = int(total_bytes * machine.ram_share)
        self.policy = policy(name, self.capacity_bytes)
        self.prefetches = CHOICES[name].prefetch
        self.predictor, self.promotions = Predictor(), Promotions[str]()
        self.lane = _Lane()
        self.ram: dict[str, int] = {}
        self.in_ram: set[str] = set()
        """The same by the documents' names, which is how the predictor knows them."""
        self.ram_bytes = 0
        self.gpu = _Recent(int(total_bytes * machine.gpu_share))
        self.disk = _Recent(int(total_bytes * machine.disk_share))
        for key, size_bytes in zip(self.keys, self.sizes, strict=True):
            self.disk.touch(key, size_bytes)

    def restore_s(self, size_bytes: int) -> float:
        return self.machine.disk_latency_s + size_bytes / self.machine.disk_bytes_per_s

    def is_near(self, document: int) -> bool:
        key = self.keys[document]
        return key in self.ram or key in self.gpu.held

    def ask(self, document: int, now: float) -> float:
        """How long the question waits."""
        key, size_bytes = self.keys[document], self.sizes[document]
        on_disk, near = key in self.disk.held, self.is_near(document)
        restore_s, copy_s = self.restore_s(size_bytes), size_bytes / self.machine.ram_bytes_per_s
        read_s = size_bytes / self.machine.token_bytes / self.machine.read_tokens_per_s
        self.policy.used(key, size_bytes, read_s if near and not on_disk else restore_s, now)
        self.promotions.used(key)
        if on_disk or not near:  # what is read anew is written anew
            self.disk.touch(key, size_bytes)
        if key in self.gpu.held:
            wait_s = 0.0
        elif key in self.ram:
            wait_s = copy_s
        elif self.promotions.in_flight(key):
            wait_s = self.lane.take(key) + copy_s  # the rest of it, and nothing goes before it any more
            self._arrive(key, now)
            self.promotions.used(key)
        else:
            self.bytes_moved += size_bytes
            wait_s = (restore_s + self.lane.share(restore_s, now) if on_disk else read_s) + copy_s
            self._hold(key, size_bytes, now)
        self.gpu.touch(key, size_bytes)
        return wait_s

    def change(self, document: int, now: float) -> None:
        """A new version was read, which leaves its KV in RAM and on disk; the old one is deleted everywhere."""
        old, size_bytes = self.keys[document], self.sizes[document]
        new = self.keys[document] = f"{document}@{now}"
        if self.promotions.in_flight(old):
            self.lane.take(old)
            self.promotions.failed(old, now)
        self.ram_bytes -= self.ram.pop(old, 0)
        self.in_ram.discard(str(document))
        self.gpu.drop(old)
        self.disk.drop(old)
        self.promotions.forget(old)
        self.policy.replaced(old, new)
        self.bytes_moved += size_bytes
        self.disk.touch(new, size_bytes)
        self._hold(new, size_bytes, now)

    def promote(self, tenant: str, now: float) -> None:
        if self.lane.busy:
            return
        candidates = []
        for guess in self.predictor.likely(tenant, now, GUESSES, self.in_ram):
            key, size_bytes = self.keys[int(guess.key)], self.sizes[int(guess.key)]
            if key in self.disk.held and key not in self.gpu.held:
                candidates.append(
                    Candidate(
                        key,
                        size_bytes,
                        self.restore_s(size_bytes),
                        guess.probability,
                        guess.why,
                        within_s=guess.within_s,
                        kind=guess.kind,
                    )
                )
        if not candidates:
            return
        snapshot = Snapshot(tuple(candidates), self.ram, self.ram_bytes, self.capacity_bytes)
        for plan in self.promotions.plan(snapshot, self.policy, now):
            self.promotions.started(plan, now)
            for victim in plan.evict:
                self._evict(victim, now)
            self.lane.add(plan, now)
            self.bytes_moved += plan.size_bytes

    def advance(self, now: float) -> None:
        for key, at_s in self.lane.advance(now):
            self._arrive(key, at_s)

    def _arrive(self, key: str, now: float) -> None:
        self.promotions.finished(key, now)
        self._put(key, self.sizes[int(_name(key))], now)

    def _hold(self, key: str, size_bytes: int, now: float) -> None:
        """Into RAM, which what is loaded passes through anyway; where no room can be made it does not stay."""
        need_bytes = self.ram_bytes + self.promotions.in_flight_bytes + size_bytes - self.capacity_bytes
        if need_bytes > 0:
            victims = self.policy.victims(need_bytes, now, Kept(self.promotions, now)) or self.policy.victims(need_bytes, now)
            if not victims:
                return
            for victim in victims:
                self._evict(victim, now)
        self._put(key, size_bytes, now)

    def _put(self, key: str, size_bytes: int, now: float) -> None:
        self.ram[key] = size_bytes
        self.in_ram.add(_name(key))
        self.ram_bytes += size_bytes
        self.policy.added(key, size_bytes, self.restore_s(size_bytes), now)

    def _evict(self, key: str, now: float) -> None:
        self.ram_bytes -= self.ram.pop(key)
        self.in_ram.discard(_name(key))
        self.policy.removed(key)
        self.promotions.evicted(key, now)


class _Recent:
    """A tier that keeps whole documents, the most recently used of them."""

    def __init__(self, capacity_bytes: int) -> None:
        self.held: OrderedDict[str, int] = OrderedDict()
        self._free_bytes = capacity_bytes

    def touch(self, key: str, size_bytes: int) -> None:
        if key in self.held:
            self.held.move_to_end(key)
            return
        self.held[key] = size_bytes
        self._free_bytes -= size_bytes
        while self._free_bytes < 0:
            self._free_bytes += self.held.popitem(last=False)[1]

    def drop(self, key: str) -> None:
        self._free_bytes += self.held.pop(key, 0)


class _Lane:
    """Promotions under way, one after another, at full speed or, while a question's own restoring runs, at half."""

    def __init__(self) -> None:
        self._left_s: deque[tuple[str, float]] = deque()
        self._now = self._shared_until = 0.0

    @property
    def busy(self) -> bool:
        return bool(self._left_s)

    def add(self, plan: Promotion[str], now: float) -> None:
        self._now = max(self._now, now)
        self._left_s.append((plan.key, plan.restore_s))

    def take(self, key: str) -> float:
        """Take it out; the seconds that were left of it."""
        found = next(one for one in self._left_s if one[0] == key)
        self._left_s.remove(found)
        return found[1]

    def share(self, cost_s: float, now: float) -> float:
        """A question restores for so many seconds; how many more it takes since the disk is shared."""
        more_s = min(sum(left_s for _, left_s in self._left_s), cost_s)
        self._shared_until = max(self._shared_until, now + cost_s + more_s)
        return more_s

    def advance(self, now: float) -> Iterator[tuple[str, float]]:
        """What is finished by now, and when it was."""
        while self._left_s:
            key, left_s = self._left_s[0]
            shared_s = min(max(self._shared_until - self._now, 0.0), 2 * left_s)
            end = self._now + shared_s + left_s - shared_s / 2
            if end > now:
                shared_s = min(max(self._shared_until - self._now, 0.0), now - self._now)
                self._left_s[0] = (key, left_s - (now - self._now) + shared_s / 2)
                break
            self._left_s.popleft()
            self._now = end
            yield key, end
        self._now = max(self._now, now)


def _name(key: str) -> str:
    """The document of a version."""
    return key.partition("@")[0]
