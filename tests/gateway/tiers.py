"""For the tests of the tiers: an engine that is truer to when and what the real one stores, a disk of a size, documents of one size.

The real one looks KV up when a request comes, and has it on its GPU from the first token on. It stores what the KV server
did not have, whether it computed that or had it on its GPU; what the KV server held in RAM is not written to disk again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

from litestar.di import Provide

from backends.base import Delta
from gateway.sections import Disk
from gateway.shelf.documents import Shelf
from gateway.upkeep.moves import Moves
from router.documents import DocumentId, Owner, Salt, Version
from router.prompts import derive, prefix_of
from router.residency import Ledger
from tests.fakes.engine import CHUNK, CHUNK_BYTES, FakeHost, FakeWorker, key_of
from tests.fakes.gateway import Gateway
from tests.fakes.tokenizers import simple

GIB = 2**30
T = TypeVar("T")


class TrueHost(FakeHost):
    """Remembers the most that ever lay on its disk, and has a file system of `capacity_bytes`."""

    def __init__(self, name: str = "kv", *, capacity_bytes: int = 10**12) -> None:
        super().__init__(name)
        self.free_bytes = capacity_bytes
        self.peak_bytes = 0
        self.stored: list[str] = []
        """The salt of each chunk that was written to the disk."""

    @property
    def disk_bytes(self) -> int:
        return sum(len(chunks) for chunks in self.disk.values()) * CHUNK_BYTES

    @property
    def free_bytes(self) -> int:
        return self._capacity_bytes - self.disk_bytes

    @free_bytes.setter
    def free_bytes(self, capacity_bytes: int) -> None:
        """Set while the disk is empty, or to change what others leave of it."""
        self._capacity_bytes = capacity_bytes

    def store(self, salt: str, chunk: tuple[int, ...]) -> None:
        if self.keeps and chunk not in self.disk.get(salt, ()):
            self.stored.append(salt)
        super().store(salt, chunk)
        self.peak_bytes = max(self.peak_bytes, self.disk_bytes)

    def restart(self) -> None:
        """The KV server starts again: its RAM is empty, its files are there."""
        self.forget_ram()


class TrueWorker(FakeWorker):
    """Tells the ledger what is on its GPU, as KV events do."""

    def __init__(self, name: str, host: FakeHost) -> None:
        super().__init__(name, host)
        self._met: dict[int, int] = {}

    async def _deltas(self, request: dict[str, Any]) -> AsyncIterator[Delta]:
        self._met[id(request)] = self._look_up(request)
        computed = False
        async for delta in super()._deltas(request):
            if not computed:
                self._keep(request)
                computed = True
            yield delta

    def _look_up(self, request: dict[str, Any]) -> int:
        """Tokens that are here or come from the host, without a gap from the first."""
        met = 0
        for chunk in prefixes(request["prompt"]):
            there = chunk in self.gpu.get(request["cache_salt"], ()) or self.host.met(request["cache_salt"], chunk)
            if not there or len(chunk) == len(request["prompt"]):  # the last token is always computed
                break
            met = len(chunk)
        return met

    def _keep(self, request: dict[str, Any]) -> None:
        salt, keep = request["cache_salt"], request["kv_transfer_params"]["lmcache.max_offload_tokens"]
        chunks = prefixes(request["prompt"])
        self.gpu.setdefault(salt, set()).update(chunks)
        if self.host.ledger is not None:
            blocks = [salt.encode() + key_of(chunk) for chunk in chunks]  # the salt is part of an engine's hash
            self.host.ledger.gpu(self.name).stored(blocks, None, Salt(salt), CHUNK)
        for chunk in chunks:
            if self.host.met(salt, chunk):
                self.host.load(salt, chunk)
            elif len(chunk) <= keep:
                self.host.store(salt, chunk)

    def _cache(self, request: dict[str, Any]) -> int:
        cached = self._met.pop(id(request)) if not self.forgets else 0
        self.prefilled_tokens += len(request["prompt"]) - cached
        return cached

    def restart(self) -> None:
        """Its GPU is empty afterwards."""
        self.gpu.clear()
        if self.host.ledger is not None:
            self.host.ledger.forget_worker(self.name)


class TieredGateway(Gateway):
    """A gateway over these, and what a test asks of them."""

    host: TrueHost

    def __init__(self, folder: Path, *, hosts: list[TrueHost] | None = None, workers: int = 1, **more: Any) -> None:
        super().__init__(folder, hosts=hosts or [TrueHost()], workers=workers, **more)
        self.workers = [TrueWorker(worker.name, worker.host) for worker in self.workers]

    def salt(self, document_id: str) -> str:
        """Of the version that answers."""
        return self.version(document_id).salt

    def version(self, document_id: str) -> Version:
        document = self.shelf.catalog.get(Owner("tenant-a"), DocumentId(document_id))
        assert document is not None
        assert document.answering is not None
        return document.answering

    @property
    def ledger(self) -> Ledger:
        ledger = self.host.ledger
        assert ledger is not None
        return ledger

    @property
    def shelf(self) -> Shelf:
        return self._part("shelf", Shelf)

    @property
    def moves(self) -> Moves:
        return self._part("moves", Moves)

    def _part(self, name: str, kind: type[T]) -> T:
        provide = self.apps.tenants.dependencies[name]
        assert isinstance(provide, Provide)
        part = provide.dependency()
        assert isinstance(part, kind)
        return part

    def on_disk(self, *, whole: bool = True) -> set[str]:
        """Ids of the documents that answer and lie wholly (or partly) on any disk."""
        found: set[str] = set()
        for document in self.shelf.catalog:
            if (version := document.answering) is not None:
                chunks = max(len(host.disk.get(version.salt, ())) for host in self.hosts)
                if chunks >= (version.prefix_tokens // CHUNK if whole else 1):
                    found.add(document.id)
        return found

    async def is_out(self) -> bool:
        """Whether the gateway has noticed that it can't answer."""
        return not await self.ready()

    def cool(self) -> None:
        """Everything leaves the GPUs and RAM; only what is on the disks stays."""
        for worker in self.workers:
            assert isinstance(worker, TrueWorker)
            worker.restart()
        for host in self.hosts:
            host.forget_ram()


def prefixes(ids: list[int]) -> list[tuple[int, ...]]:
    """Every prefix of whole chunks, the shortest first: a chunk's key covers all before it."""
    return [tuple(ids[:end]) for end in range(CHUNK, len(ids) + 1, CHUNK)]


def text(name: str) -> str:
    """A document's text; all that have names of one length take as much space."""
    return f"# {name}\n\nAll about {name}. " + "One sentence after another. " * 4


def size_bytes(of: str) -> int:
    """What this text's KV takes on a disk."""
    tokenizer = simple()
    return len(prefix_of(derive(tokenizer, CHUNK), tokenizer, of).ids) // CHUNK * CHUNK_BYTES


SIZE = size_bytes(text("a"))
"""Of a document with a name of one letter."""


def budget(documents: float, **more: Any) -> Disk:
    """A disk with room for so many of them, and no more than that is left free for the next."""
    return Disk(**{"budget_gib": documents * SIZE / GIB, "low_watermark": 1.0, **more})
