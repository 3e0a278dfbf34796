"""Two hosts with RAM for ten documents each and a keeper over them, for the keeper's tests: nothing else runs here."""

from __future__ import annotations

import asyncio
import math
import time

from msgspec.structs import replace

from gateway.pool import WorkerPool
from gateway.shelf.charges import ReadingCharges
from gateway.shelf.classifier import Classifier
from gateway.shelf.documents import Shelf
from gateway.shelf.matchings import Matchings
from gateway.shelf.reading import Reading
from gateway.tiers.hosts import Hosts
from gateway.tiers.ram_keeper import USABLE, RamKeeper
from gateway.tiers.ram_quotas import RamQuotas
from observability.telemetry import Telemetry
from router.catalog import Catalog
from router.documents import Descriptor, Document, DocumentId, Owner, Salt, TenantId, Version, VersionId, VersionState
from router.limits import UNLIMITED, Limits
from router.matching import Thresholds
from router.prompts import derive
from router.residency import Ledger
from router.viewers import Viewer
from tests.fakes.engine import CHUNK, CHUNK_BYTES, FakeHost, FakeKVServer
from tests.fakes.gateway import CONTEXT, RESERVE, SECRET, eventually
from tests.fakes.store import MemoryStore
from tests.fakes.tokenizers import simple

OWNER = Owner("tenant-a")
CHUNKS = 3
SIZE = CHUNKS * CHUNK_BYTES


def ram_bytes(documents: float, size_bytes: int = SIZE) -> int:
    """A tier of which so many documents may be used."""
    return math.ceil(documents * size_bytes / USABLE)


class HeldServer(FakeKVServer):
    """Deletes only while it may."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(host)
        self.may = asyncio.Event()
        self.may.set()
        self.deleting = 0

    async def delete(self, *args: object, **more: object) -> None:
        self.deleting += 1
        await self.may.wait()
        await super().delete(*args, **more)  # type: ignore[arg-type]


class Attic:
    """Two hosts whose RAM holds `documents` of one size, and a keeper over them that has been told so."""

    def __init__(self, documents: float = 10, *, policy: str = "lru") -> None:
        self.now = 1000.0
        self.fakes = {name: FakeHost(name, ram_bytes=ram_bytes(documents)) for name in "ab"}
        self.servers = {name: HeldServer(fake) for name, fake in self.fakes.items()}
        self.ledger = Ledger({"a1": "a", "b1": "b"})
        for fake in self.fakes.values():
            fake.ledger = self.ledger
        self.hosts = Hosts(list(self.servers.values()), self.ledger)
        store, telemetry, tokenizer = MemoryStore(), Telemetry(), simple()
        self.shelf = Shelf(
            store,
            Classifier(store, None, Matchings(store, now=time.time), telemetry, Thresholds(0.0, 0.0)),
            Reading(tokenizer, derive(tokenizer, CHUNK), "f", SECRET, CONTEXT, RESERVE),
            _room,
            ReadingCharges(),
            now=self.clock,
        )
        self.limits: dict[str, Limits] = {}
        self.ram = RamKeeper(
            self.shelf,
            WorkerPool((), self.ledger, at_once=1),
            self.hosts,
            self.ledger,
            RamQuotas(self.shelf, self.ledger, lambda tenant: self.limits.get(tenant, UNLIMITED)),
            telemetry,
            policy_name=policy,
            token_bytes=CHUNK_BYTES / CHUNK,
            now=self.clock,
        )

    def clock(self) -> float:
        self.now += 1
        return self.now

    def add(self, name: str, *, on: str = "a", chunks: int = CHUNKS, pinned: bool = False, owner: Owner = OWNER) -> Version:
        """A document, whole in the RAM of these hosts, and asked just now."""
        version = Version(
            id=VersionId(name),
            digest="",
            fingerprint="f",
            salt=Salt(name),
            document_tokens=chunks * CHUNK,
            prefix_tokens=chunks * CHUNK,
            state=VersionState.READY,
        )
        document = Document(owner=owner, id=DocumentId(name), descriptor=Descriptor(name), current=version, pinned=pinned)
        self.shelf.catalog = self.shelf.catalog.with_document(document)
        for host in on:
            self.load(version, host)
        self.ram.used(version)
        return version

    def load(self, version: Version, host: str = "a") -> None:
        ids = ids_of(version)
        self.hosts.know(version, ids)
        for end in range(CHUNK, len(ids) + 1, CHUNK):
            self.fakes[host].store(version.salt, tuple(ids[:end]))

    def version(self, name: str) -> Version:
        return self.shelf.catalog.find(Viewer(TenantId(OWNER)), name).versions[0]

    def pin(self, name: str) -> None:
        document = self.shelf.catalog.get(OWNER, DocumentId(name))
        assert document is not None
        self.shelf.catalog = self.shelf.catalog.with_document(replace(document, pinned=True))

    async def looked(self) -> None:
        """The keeper has looked at its hosts once."""
        task = asyncio.create_task(self.ram.run())
        await eventually(lambda: len(self.ram.capacity_bytes) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def held(self, host: str = "a") -> str:
        """The documents of which anything is in RAM there; each must be whole."""
        for salt, chunks in self.fakes[host].ram.items():
            found = self.shelf.catalog.of_salt(Salt(salt))
            assert found is None or len(chunks) == found[1].prefix_tokens // CHUNK, f"a part of {salt}"
        return "".join(sorted(self.fakes[host].ram))


async def _room(_: Catalog, __: int) -> None:
    """There is always room on the disk."""


def ids_of(version: Version) -> list[int]:
    start = sum(version.salt.encode()) * 1000
    return list(range(start, start + version.prefix_tokens))


class Peak:
    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self.most_bytes = 0

    def look(self) -> int:
        self.most_bytes = max(self.most_bytes, sum(len(chunks) * CHUNK_BYTES for chunks in self._host.ram.values()))
        return self.most_bytes
