"""Two hosts with disks for three documents each and a keeper over them, for the keeper's tests: nothing else runs here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from backends.base import DiskScan
from gateway.sections import Disk
from gateway.shelf.reading import Reading
from gateway.tiers.disk_keeper import DiskKeeper
from gateway.tiers.hosts import Hosts
from gateway.tiers.uses import Uses
from observability.telemetry import Telemetry
from router.catalog import Catalog
from router.chunk_tier import ChunkKey
from router.documents import Descriptor, Document, DocumentId, Owner, Salt, Version, VersionId, VersionState
from router.limits import UNLIMITED, Limits
from router.prompts import derive
from router.residency import Ledger
from tests.fakes.engine import CHUNK, CHUNK_BYTES, FakeHost, FakeKVServer
from tests.fakes.gateway import CONTEXT, RESERVE, SECRET
from tests.fakes.store import MemoryStore
from tests.fakes.tokenizers import simple

OWNER = Owner("tenant-a")
CHUNKS = 3
SIZE = CHUNKS * CHUNK_BYTES
GIB = 2**30


class HeldServer(FakeKVServer):
    """Deletes and looks at its disk only while it may; can't look at all while it is `broken`."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(host)
        self.may = asyncio.Event()
        self.may.set()
        self.held = asyncio.Event()
        self.broken: OSError | None = None

    async def delete(self, keys: Sequence[ChunkKey], salt: Salt, *, ram: bool = True, disk: bool = True) -> None:
        await self._wait()
        await super().delete(keys, salt, ram=ram, disk=disk)

    async def scan(self) -> DiskScan:
        seen = await super().scan()
        await self._wait()
        if self.broken is not None:
            raise self.broken
        return seen

    async def on_disk(self, keys: Sequence[ChunkKey], salt: Salt) -> dict[ChunkKey, int]:
        if self.broken is not None:
            raise self.broken
        return await super().on_disk(keys, salt)

    async def free_bytes(self) -> int | None:
        if self.broken is not None:
            raise self.broken
        return await super().free_bytes()

    def hold(self) -> None:
        self.may.clear()
        self.held.clear()

    async def _wait(self) -> None:
        self.held.set()
        await self.may.wait()


class Cellar:
    """The keeper sees it as the shelf, too."""

    def __init__(self, **disk: Any) -> None:
        self.fakes = {name: FakeHost(name) for name in "ab"}
        self.servers = {name: HeldServer(fake) for name, fake in self.fakes.items()}
        self.ledger = Ledger({"a1": "a", "b1": "b"})
        self.catalog = Catalog()
        self.limits: dict[str, Limits] = {}
        self.telemetry = Telemetry()
        self.uses = Uses(MemoryStore(), now=lambda: 0.0)
        self.hosts = Hosts(list(self.servers.values()), self.ledger)
        tokenizer = simple()
        self.keeper = DiskKeeper(
            self.hosts,
            self.ledger,
            self.uses,
            Reading(tokenizer, derive(tokenizer, CHUNK), "f", SECRET, CONTEXT, RESERVE),
            Disk(**{"budget_gib": 3 * SIZE / GIB, "low_watermark": 1.0, **disk}),
            self.telemetry,
            token_bytes=CHUNK_BYTES / CHUNK,
            limits=lambda tenant: self.limits.get(tenant, UNLIMITED),
        )

    def add(self, name: str, *, on: str = "", pinned: bool = False, incoming: bool = False, owner: Owner = OWNER) -> Version:
        """A document, younger than those before it and whole on the disks of these hosts."""
        version = Version(
            id=VersionId(name),
            digest=name,
            fingerprint="f",
            salt=Salt(name),
            document_tokens=CHUNKS * CHUNK,
            prefix_tokens=CHUNKS * CHUNK,
            state=VersionState.PENDING if incoming else VersionState.READY,
            created_at=len(self.catalog),
        )
        document = Document(
            owner=owner,
            id=DocumentId(name),
            descriptor=Descriptor(name),
            pinned=pinned,
            current=None if incoming else version,
            incoming=version if incoming else None,
        )
        self.catalog = self.catalog.with_document(document)
        for host in on:
            self.write(version, host)
        return version

    def write(self, version: Version, host: str, *, chunks: int = CHUNKS) -> None:
        """So much of it is stored there, and the ledger knows."""
        ids, salt = ids_of(version), version.salt
        for end in range(CHUNK, chunks * CHUNK + 1, CHUNK):
            self.fakes[host].store(salt, tuple(ids[:end]))
        for key in self.hosts.know(version, ids)[:chunks]:
            self.ledger.disk(host).stored(salt, key, CHUNK_BYTES)

    def on(self, host: str) -> str:
        """The documents of which anything lies there, as the disk has it."""
        return "".join(sorted(self.fakes[host].disk))

    @property
    def promised(self) -> dict[str, int]:
        return {host: self.keeper.promised_bytes(host) for host in "ab"}


def ids_of(version: Version) -> list[int]:
    start = sum(version.salt.encode()) * 1000
    return list(range(start, start + version.prefix_tokens))
