"""Finds stored KV that is damaged, and has it written anew: in the background at a limited rate, and at once where a
question met less than it was believed to meet.

A damaged chunk is a miss to the engine (it is authenticated), so an answer is never wrong for it; but it stays on the
disk, as a store skips a key that exists. So it is deleted, from RAM as well, and the version read again from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import structlog

from backends.base import KVServer
from gateway.documents import Shelf
from gateway.hosts import Hosts
from gateway.pool import WorkerPool
from gateway.prefixes import PrefixCache
from gateway.reader import Reader
from observability.telemetry import HOST, OUTCOME, Telemetry
from router.chunk_tier import ChunkKey
from router.documents import Salt, Version, VersionState
from router.errors import KvshelfError, NotFound
from router.residency import Ledger

log = structlog.get_logger("scrubber")

BATCH = 4
"""Chunks that are read in one go."""
IDLE_S = 5.0
"""How long there is nothing to look at before it is looked again."""


class Scrubber:
    def __init__(
        self,
        shelf: Shelf,
        pool: WorkerPool,
        hosts: Hosts,
        prefixes: PrefixCache,
        reader: Reader,
        ledger: Ledger,
        telemetry: Telemetry,
        *,
        bytes_per_s: float,
        chunk_tokens: int,
    ) -> None:
        """`bytes_per_s`: how fast files are read in the background; 0: only what is suspected is looked at."""
        self._shelf = shelf
        self._pool = pool
        self._hosts = hosts
        self._prefixes = prefixes
        self._reader = reader
        self._ledger = ledger
        self._telemetry = telemetry
        self._bytes_per_s = bytes_per_s
        self._chunk_tokens = chunk_tokens
        self._suspects: asyncio.Queue[Version] = asyncio.Queue()
        self._suspected: set[Salt] = set()

    def suspect(self, version: Version) -> None:
        """A question met less of this version than it should have: its files are looked at next."""
        if version.salt not in self._suspected:
            self._suspected.add(version.salt)
            self._suspects.put_nowait(version)

    async def run(self) -> None:
        """Look through everything again and again, until cancelled. Suspects don't wait for the others."""
        await asyncio.gather(self._run_suspects(), self._run_through())

    async def _run_suspects(self) -> None:
        while True:
            version = await self._suspects.get()
            self._suspected.discard(version.salt)
            await self.scrub(version, at_rate=False)

    async def _run_through(self) -> None:
        while self._bytes_per_s:
            looked_at = 0
            for version in self._stored():
                looked_at += await self.scrub(version, at_rate=True)
            if not looked_at:
                await asyncio.sleep(IDLE_S)

    async def scrub(self, version: Version, *, at_rate: bool) -> int:
        """Look at all of the version's files, on every host, and mend what is damaged; how many bytes were read."""
        read_bytes = 0
        try:
            ids = (await self._prefixes.get(version)).ids
            await self._hosts.look(version, ids)
            for server in self._hosts:
                damaged, size_bytes = await self._verify(server, version, at_rate=at_rate)
                read_bytes += size_bytes
                if damaged:
                    await self._mend(server, version, damaged)
        except NotFound:
            pass  # removed meanwhile
        except (KvshelfError, OSError) as error:
            log.warning("scrub_failed", version=version.id, error=str(error))
        return read_bytes

    async def _verify(self, server: KVServer, version: Version, *, at_rate: bool) -> tuple[tuple[ChunkKey, ...], int]:
        damaged: list[ChunkKey] = []
        read_bytes = 0
        keys = self._ledger.keys(version.salt)
        for start in range(0, len(keys), BATCH):
            if at_rate:
                await self._pool.calm()
            found = await server.verify(keys[start : start + BATCH], version.salt)
            damaged += found.damaged
            read_bytes += found.read_bytes
            self._telemetry.scrubbed_bytes.add(found.read_bytes, {HOST: server.name})
            if at_rate:
                await asyncio.sleep(found.read_bytes / self._bytes_per_s)
        return tuple(damaged), read_bytes

    async def _mend(self, server: KVServer, version: Version, damaged: tuple[ChunkKey, ...]) -> None:
        log.warning("damage_found", host=server.name, version=version.id, chunks=len(damaged))
        self._telemetry.damaged_chunks.add(len(damaged), {HOST: server.name})
        await self._hosts.delete(version.salt, damaged, host=server.name)
        keys = self._ledger.keys(version.salt)
        whole = next(number for number, key in enumerate(keys) if key in damaged)
        outcome = "failed"
        try:
            await self._reader.read(version, start=whole * self._chunk_tokens, host=server.name)
            outcome = "mended"
        finally:
            self._telemetry.repaired.add(1, {OUTCOME: outcome, HOST: server.name})
        log.info("damage_mended", host=server.name, version=version.id, chunks=len(damaged))

    def _stored(self) -> Iterator[Version]:
        """Versions that answer and have something on a disk."""
        for document in tuple(self._shelf.catalog):
            version = document.current
            if version is None or version.state is not VersionState.READY or self._shelf.is_stale(document):
                continue
            if any(self._ledger.disk(server.name).size_bytes(version.salt) for server in self._hosts):
                yield version
