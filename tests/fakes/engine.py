"""An engine in memory: workers with a GPU tier each, one KV server between them, and faults on demand.

It caches as the real one does (whole chunks, by salt, never across salts) and answers with the words it is given.
"""

from __future__ import annotations

import array
import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from backends.base import Damage, Delta, DiskScan, Load, Memory, TokenLogprobs, Usage
from router.chunk_tier import ChunkKey
from router.documents import Salt
from router.errors import EngineFailed, EngineUnavailable
from router.residency import Ledger

CHUNK = 16
CHUNK_BYTES = 1000


@dataclass
class FakeHost:
    """What one host's KV server holds: salt → the prefixes (as tuples of ids, whole chunks) in RAM and on disk."""

    name: str = "kv"
    ram: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    disk: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    damaged: set[ChunkKey] = field(default_factory=set)
    """Chunks on disk that are not what was stored: no worker can load them."""
    partial: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    age_s: float = 0.0
    """How long ago everything on disk was written."""
    free_bytes: int = 10**12
    ram_bytes: int = 10**9
    """The RAM tier's size; 0 while the server does not tell."""
    keeps: bool = True
    """False: nothing is stored, as with a KV server that is down while a document is read."""
    ledger: Ledger | None = None
    """Who is told of what RAM holds, once the gateway runs."""

    async def observe(self, ledger: Ledger) -> None:
        """The gateway's ear for this host: what happens from now on is told."""
        self.ledger = ledger
        await asyncio.Event().wait()

    def store(self, salt: str, chunk: tuple[int, ...]) -> None:
        if self.keeps:
            self.disk.setdefault(salt, set()).add(chunk)
            self.load(salt, chunk)

    def load(self, salt: str, chunk: tuple[int, ...]) -> None:
        before = self.ram.setdefault(salt, set())
        if self.ledger is not None and chunk not in before:  # the server never repeats what it told
            self.ledger.ram(self.name).stored(Salt(salt), key_of(chunk), CHUNK_BYTES)
        before.add(chunk)

    def forget_ram(self, salt: str | None = None) -> None:
        """RAM drops this salt's chunks, or everything."""
        for one in [salt] if salt is not None else list(self.ram):
            for chunk in self.ram.pop(one, set()):
                if self.ledger is not None:
                    self.ledger.ram(self.name).removed(Salt(one), key_of(chunk))

    def met(self, salt: str, chunk: tuple[int, ...]) -> bool:
        """Whether a worker can have this chunk from here."""
        on_disk = chunk in self.disk.get(salt, ()) and key_of(chunk) not in self.damaged
        return chunk in self.ram.get(salt, ()) or on_disk


class FakeKVServer:
    sees_disk = True

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.name = host.name
        self.problem: str | None = None
        self.checks = 0
        self.deleted: list[Salt] = []
        self.evicted: list[Salt] = []
        """Those of `deleted` that were deleted from RAM alone."""
        self.prefetched: list[Salt] = []
        self.before_delete: Callable[[], None] | None = None
        """Called at each deletion, also at one that fails."""

    async def check(self) -> str | None:
        self.checks += 1
        return self.problem

    def keys(self, ids: Sequence[int]) -> tuple[ChunkKey, ...]:
        return tuple(key_of(chunk) for chunk in sorted(_chunks(ids), key=len))

    async def scan(self) -> DiskScan:
        chunks = {Salt(salt): {key_of(chunk): CHUNK_BYTES for chunk in found} for salt, found in self.host.disk.items() if found}
        ages = dict.fromkeys(chunks, self.host.age_s)
        return DiskScan(chunks, ages, tuple(self.host.partial), tuple(self.host.foreign))

    async def free_bytes(self) -> int | None:
        return self.host.free_bytes

    async def on_disk(self, keys: Sequence[ChunkKey], salt: Salt) -> dict[ChunkKey, int]:
        there = {key_of(chunk) for chunk in self.host.disk.get(salt, ())}
        return {key: CHUNK_BYTES for key in keys if key in there}

    async def prefetch(self, ids: Sequence[int], salt: Salt) -> int:
        if self.problem is not None:
            raise OSError(self.problem)
        self.prefetched.append(salt)
        found = 0
        for chunk in sorted(_chunks(ids), key=len):
            if not self.host.met(salt, chunk):
                break
            self.host.load(salt, chunk)
            found += 1
        return found

    async def delete(self, keys: Sequence[ChunkKey], salt: Salt, *, ram: bool = True, disk: bool = True) -> None:
        if self.before_delete is not None:
            self.before_delete()
        if self.problem is not None:
            raise OSError(self.problem)
        self.deleted.append(salt)
        if not disk:
            self.evicted.append(salt)
        for here, tier in ((ram, self.host.ram), (disk, self.host.disk)):
            if here and salt in tier:
                tier[salt] = {chunk for chunk in tier[salt] if key_of(chunk) not in keys}
                if not tier[salt]:
                    del tier[salt]
        if disk:
            self.host.damaged -= set(keys)

    async def verify(self, keys: Sequence[ChunkKey], salt: Salt) -> Damage:
        there = await self.on_disk(keys, salt)
        return Damage(tuple(key for key in there if key in self.host.damaged), sum(there.values()))

    async def remove_partial(self, names: Sequence[str]) -> int:
        gone = [name for name in names if name in self.host.partial]
        self.host.partial = [name for name in self.host.partial if name not in gone]
        return len(gone)

    async def memory(self) -> Memory | None:
        if self.problem is not None or not self.host.ram_bytes:
            return None
        return Memory(sum(len(chunks) * CHUNK_BYTES for chunks in self.host.ram.values()), self.host.ram_bytes)


@dataclass
class Fault:
    """Fails the next request that `applies`, before its `at`-th delta (0: before the first)."""

    error: EngineUnavailable | EngineFailed
    at: int = 0


class FakeWorker:
    def __init__(self, name: str, host: FakeHost, *, words: Sequence[str] = ("It ", "is ", "so.")) -> None:
        self.name = name
        self.host = host
        self.words = list(words)
        self.says: dict[str, list[str]] = {}
        """Other words for the questions of a salt."""
        self.alternatives: dict[str, dict[str, float]] = {}
        """What a salt's answers might have said instead, by log-probability."""
        self.gpu: dict[str, set[tuple[int, ...]]] = {}
        self.problem: str | None = None
        self.faults: list[Fault] = []
        self.forgets = False
        """True: it meets no KV, its own nor the host's, as with files that can't be read."""
        self.bodies: list[dict[str, Any]] = []
        self.sent: list[bytes] = []
        """The same, as they came."""
        self.prefilled_tokens = 0
        """Prompt tokens that were not cached, of all requests that came to their end."""
        self.before_delta: Callable[[int], Any] | None = None
        """Awaited before each delta, with its number: where a test holds an answer up."""
        self.answering: dict[str, Any] = {}
        """The body whose delta `before_delta` is called for."""
        self.aborted = 0
        self.open = 0
        self.elsewhere = 0
        """Requests on it that did not come through `complete`."""
        self.hides_load = False
        """True: it says nothing of how busy it is."""

    async def check(self) -> str | None:
        return self.problem

    async def load(self) -> Load | None:
        return None if self.problem is not None or self.hides_load else Load(self.open + self.elsewhere, 0, 0.0)

    @asynccontextmanager
    async def complete(self, body: Sequence[bytes]) -> AsyncIterator[AsyncIterator[Delta]]:
        if self.problem is not None:
            raise EngineUnavailable(f"Worker {self.name} {self.problem}.")
        self.sent.append(b"".join(body))
        request = msgspec.json.decode(self.sent[-1])
        self.bodies.append(request)
        finished = False

        async def deltas() -> AsyncIterator[Delta]:
            nonlocal finished
            async for delta in self._deltas(request):
                yield delta
            finished = True

        self.open += 1
        stream = deltas()
        try:
            yield stream
        finally:
            self.open -= 1
            self.aborted += not finished
            await stream.aclose()

    async def _deltas(self, request: dict[str, Any]) -> AsyncIterator[Delta]:
        fault = self.faults.pop(0) if self.faults else None
        answer = self.says.get(request["cache_salt"], self.words)
        words = answer[: request["max_tokens"]]
        for number, word in enumerate(words):
            if fault is not None and fault.at == number:
                raise fault.error
            if self.before_delta is not None:
                self.answering = request
                await self.before_delta(number)
            await asyncio.sleep(0)
            others = self.alternatives.get(request["cache_salt"], {word: -0.5})
            logprobs = TokenLogprobs([word], [-0.5], [others]) if "logprobs" in request else None
            last = number == len(words) - 1
            yield Delta(word, ("length" if len(words) < len(answer) else "stop") if last else None, logprobs)
        if fault is not None:
            raise fault.error
        yield Delta(usage=Usage(len(request["prompt"]), len(words), self._cache(request)))

    def _cache(self, request: dict[str, Any]) -> int:
        """Tokens that were cached; caches the others."""
        salt, keep = request["cache_salt"], request["kv_transfer_params"]["lmcache.max_offload_tokens"]
        chunks = sorted(_chunks(request["prompt"]), key=len)
        known = [chunk for chunk in chunks if chunk in self.gpu.get(salt, ()) or self.host.met(salt, chunk)]
        for chunk in chunks:
            self.gpu.setdefault(salt, set()).add(chunk)
            if len(chunk) <= keep:
                self.host.store(salt, chunk)
        # The last token is always computed.
        cached = max((len(chunk) for chunk in known if len(chunk) < len(request["prompt"])), default=0) if not self.forgets else 0
        self.prefilled_tokens += len(request["prompt"]) - cached
        return cached


class Gate:
    """Holds a worker's requests before their `at`-th delta until it is opened: those that `applies`, given their body.

    Goes into `worker.before_delta`; what was there before is called first.
    """

    def __init__(self, worker: FakeWorker, applies: Callable[[dict[str, Any]], bool] = lambda _: True, *, at: int = 0) -> None:
        self.held: list[dict[str, Any]] = []
        self._worker = worker
        self._applies = applies
        self._at = at
        self._before = worker.before_delta
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()
        worker.before_delta = self

    async def __call__(self, number: int) -> None:
        body = self._worker.answering
        if self._before is not None:
            await self._before(number)
        if number == self._at and not self._opened.is_set() and self._applies(body):
            self.held.append(body)
            self._reached.set()
            await self._opened.wait()

    async def reached(self) -> dict[str, Any]:
        """The first body that was held, once there is one."""
        async with asyncio.timeout(5):
            await self._reached.wait()
        return self.held[0]

    def open(self) -> None:
        self._opened.set()


def key_of(chunk: tuple[int, ...]) -> ChunkKey:
    return ChunkKey(hashlib.blake2b(array.array("I", chunk).tobytes(), digest_size=16).digest())


def _chunks(ids: Sequence[int]) -> set[tuple[int, ...]]:
    """Every prefix of whole chunks: a chunk's key covers all before it."""
    return {tuple(ids[:end]) for end in range(CHUNK, len(ids) + 1, CHUNK)}
