"""Finds stored KV that is damaged, and has it written anew: in the background at a limited rate, and at once where a
question met less than it was believed to meet.

A damaged chunk is a miss to the engine (it is authenticated), so an answer is never wrong for it; but it stays on the
disk, as a store skips a key that exists. So it is deleted, from RAM as well, and the version read again from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import structlog

from backends.base import KVServer
from gateway.ingestion.reader import Reader
from gateway.pool import WorkerPool
from gateway.shelf.documents import Shelf
from gateway.shelf.prefixes import PrefixCache
from gateway.tiers.hosts import Hosts
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
RETRY_S = 60.0
"""After a repair failed."""
REST_S, LONGEST_REST_S = 0.5, 60.0
"""How long a version rests that was suspected and found whole, and twice as long each time: RAM may be too tight to restore
it, which is not the files' fault. A suspicion meanwhile is looked into afterwards."""


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
        self._resting: dict[Salt, tuple[float, float]] = {}
        """Until when (monotonic), and how long that is, for each version whose files were whole of late."""
        self._unmended: dict[tuple[str, Salt], Version] = {}
        """By host: what a repair has left with a gap."""

    def suspect(self, version: Version) -> None:
        """A question met less of this version than it should have: its files are looked at next."""
        if version.salt in self._suspected:
            return
        self._suspected.add(version.salt)
        until, _ = self._resting.get(version.salt, (0.0, 0.0))
        asyncio.get_running_loop().call_later(until - time.monotonic(), self._suspects.put_nowait, version)

    async def run(self) -> None:
        """Look through everything again and again, until cancelled. Suspects don't wait for the others."""
        await asyncio.gather(self._run_suspects(), self._run_through(), self._run_unmended())

    async def _run_suspects(self) -> None:
        while True:
            version = await self._suspects.get()
            self._suspected.discard(version.salt)
            self._rest(version.salt)  # unless there is damage
            await self.scrub(version, at_rate=False)

    async def _run_through(self) -> None:
        while self._bytes_per_s:
            looked_at = 0
            for version in self._stored():
                looked_at += await self.scrub(version, at_rate=True)
            if not looked_at:
                await asyncio.sleep(IDLE_S)

    async def _run_unmended(self) -> None:
        """What could not be mended is tried again, also where nothing is looked through."""
        while True:
            await asyncio.sleep(RETRY_S)
            for (host, salt), version in tuple(self._unmended.items()):
                if self._is_kept(version):
                    self.suspect(version)
                else:
                    del self._unmended[host, salt]

    async def scrub(self, version: Version, *, at_rate: bool) -> int:
        """Look at all of the version's files, on every host, and mend what is damaged; how many bytes were read."""
        read_bytes = 0
        try:
            # The prefix cache is the questions': a look at every document would leave nothing else in it.
            ids = () if self._ledger.keys(version.salt) else (await self._prefixes.get(version)).ids
            await self._hosts.look(version, ids)
            for server in self._hosts:
                damaged, size_bytes = await self._verify(server, version, at_rate=at_rate)
                read_bytes += size_bytes
                if damaged or self._is_unmended(server, version):
                    self._resting.pop(version.salt, None)
                    await self._mend(server, version, damaged)
        except NotFound:
            pass  # removed meanwhile
        except (KvshelfError, OSError) as error:
            self._resting.pop(version.salt, None)
            log.warning("scrub_failed", version=version.id, error=str(error))
        return read_bytes

    async def _verify(self, server: KVServer, version: Version, *, at_rate: bool) -> tuple[tuple[ChunkKey, ...], int]:
        damaged: list[ChunkKey] = []
        read_bytes = 0
        keys = self._ledger.keys(version.salt)
        for start in range(0, len(keys), BATCH):
            if at_rate:
                await self._pool.calm()
            if not self._is_kept(version):
                raise NotFound(f"Version {version.id} was removed.")
            found = await server.verify(keys[start : start + BATCH], version.salt)
            damaged += found.damaged
            read_bytes += found.read_bytes
            self._telemetry.scrubbed_bytes.add(found.read_bytes, {HOST: server.name})
            if at_rate:
                await asyncio.sleep(found.read_bytes / self._bytes_per_s)
        return tuple(damaged), read_bytes

    async def _mend(self, server: KVServer, version: Version, damaged: tuple[ChunkKey, ...]) -> None:
        """Delete these chunks, and read from the first that is missing."""
        keys = self._ledger.keys(version.salt)
        if damaged:
            log.warning("damage_found", host=server.name, version=version.id, chunks=len(damaged))
            self._telemetry.damaged_chunks.add(len(damaged), {HOST: server.name})
            await self._hosts.delete(version.salt, damaged, host=server.name)
        if not self._is_kept(version):
            raise NotFound(f"Version {version.id} was removed.")
        whole = self._ledger.disk(server.name).run(version.salt, keys)
        outcome = "failed"
        self._unmended[server.name, version.salt] = version
        try:
            await self._reader.read(version, start=whole * self._chunk_tokens, host=server.name)
            outcome = "mended"
            del self._unmended[server.name, version.salt]
        finally:
            self._telemetry.repaired.add(1, {OUTCOME: outcome, HOST: server.name})
        log.info("damage_mended", host=server.name, version=version.id, chunks=len(damaged))

    def _rest(self, salt: Salt) -> None:
        """Who suspects it again soon after it rested waits twice as long; all begins anew when it was left in peace as long."""
        now = time.monotonic()
        self._resting = {one: (until, rest_s) for one, (until, rest_s) in self._resting.items() if now < until + rest_s}
        _, before_s = self._resting.get(salt, (0.0, REST_S / 2))
        rest_s = min(2 * before_s, LONGEST_REST_S)
        self._resting[salt] = now + rest_s, rest_s

    def _is_kept(self, version: Version) -> bool:
        """Whether it is still some document's, and its KV wanted."""
        found = self._shelf.catalog.of_salt(version.salt)
        return found is not None and not found[0].expired(self._shelf.now())

    def _is_unmended(self, server: KVServer, version: Version) -> bool:
        """Whether an earlier repair failed, and nothing has filled the gap since."""
        if (server.name, version.salt) not in self._unmended:
            return False
        on_disk = self._ledger.disk(server.name).size_bytes(version.salt)
        if on_disk and self._ledger.disk_share(version, server.name) < 1:
            return True
        del self._unmended[server.name, version.salt]  # whole again, or evicted meanwhile
        return False

    def _stored(self) -> Iterator[Version]:
        """Versions that answer and have something on a disk."""
        for document in self._shelf.catalog:
            version = document.current
            if version is None or version.state is not VersionState.READY or self._shelf.is_stale(document):
                continue
            if not self._is_kept(version):
                continue
            if any(self._ledger.disk(server.name).size_bytes(version.salt) for server in self._hosts):
                yield version
