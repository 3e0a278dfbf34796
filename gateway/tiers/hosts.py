"""The hosts' KV servers, by name: whether they are healthy, and what is seen of their disks, told to the ledger.

Decides nothing: which document stays is `gateway/tiers/disk_keeper.py`'s, which comes to RAM `gateway/upkeep/prefetcher.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import structlog

from backends.base import DiskScan, KVServer
from router.chunk_tier import ChunkKey
from router.documents import Salt, Version
from router.residency import Ledger

log = structlog.get_logger("hosts")


class Hosts:
    def __init__(self, servers: Sequence[KVServer], ledger: Ledger, *, check_interval_s: float = 2.0) -> None:
        self._servers = {server.name: server for server in servers}
        self._ledger = ledger
        self._check_interval_s = check_interval_s
        self.problems: dict[str, str] = {}
        """What is wrong with each server that is not healthy."""

    def __repr__(self) -> str:
        return f"<Hosts { ({name: self.problems.get(name, 'healthy') for name in self._servers}) }>"

    def __iter__(self) -> Iterator[KVServer]:
        return iter(self._servers.values())

    def __len__(self) -> int:
        return len(self._servers)

    def get(self, name: str | None) -> KVServer | None:
        return self._servers.get(name) if name is not None else None

    async def check(self) -> None:
        """Ask every server once."""
        for name, problem in zip(
            self._servers, await asyncio.gather(*(server.check() for server in self._servers.values())), strict=True
        ):
            if (problem is None) != (name not in self.problems):
                log.info("kv_server_changed", host=name, problem=problem)
            if problem is None:
                self.problems.pop(name, None)
            else:
                self.problems[name] = problem

    async def watch(self) -> None:
        """Check again and again until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._check_interval_s)

    async def scan(self) -> dict[str, DiskScan]:
        """Look at every disk that can be seen; the ledger then believes what is there.

        What is written, deleted or told of while the look takes place is believed as that has it.
        """
        found = {}
        for server in self:
            if not server.sees_disk:
                continue
            tier = self._ledger.disk(server.name)
            changing = tier.looking()
            try:
                scan = await server.scan()
            except OSError as error:
                log.warning("disk_not_scanned", host=server.name, error=str(error))
                continue
            finally:
                tier.looked(changing)
            for salt in tier.salts.keys() - scan.chunks.keys() - changing:
                tier.forget(salt)
            for salt in scan.chunks.keys() - changing:
                tier.observed(salt, scan.chunks[salt])
            found[server.name] = scan
        return found

    def know(self, version: Version, ids: Sequence[int]) -> tuple[ChunkKey, ...]:
        """The version's chunk keys, known to the ledger from now on; none where there is no KV server."""
        server = next(iter(self), None)
        if server is None:
            return ()
        keys = self._ledger.keys(version.salt) or server.keys(ids)
        self._ledger.know(version.salt, keys)
        return keys

    async def look(self, version: Version, ids: Sequence[int]) -> None:
        """See what of this version lies on the disks."""
        keys = self.know(version, ids)
        for server in self:
            if server.sees_disk:
                tier = self._ledger.disk(server.name)
                changing = tier.looking()
                try:
                    there = await server.on_disk(keys, version.salt)
                finally:
                    tier.looked(changing)
                if version.salt not in changing:
                    tier.observed(version.salt, there)

    async def prefetch(self, version: Version, ids: Sequence[int], host: str) -> bool:
        """Bring the version from this host's disk to its RAM; whether all of it is there then. Raises OSError."""
        server, keys = self._servers[host], self.know(version, ids)
        found = await server.prefetch(ids, version.salt)
        # The server tells of what it loads, but not of what was in RAM before the gateway listened.
        for key in keys[:found]:
            self._ledger.ram(host).stored(version.salt, key, self._ledger.size_bytes(version) // len(keys))
        return found >= len(keys)

    async def stored(self, version: Version, ids: Sequence[int], host: str | None) -> bool:
        """Whether the whole prefix is where it outlives the engine: on the host's disk.

        Where that can't be seen the server is asked to find it all; where there is no server, there is nothing to see.
        """
        server = self.get(host)
        if server is None:
            return True
        if server.sees_disk:
            await self.look(version, ids)
            return self._ledger.disk_share(version, host) >= 1
        try:
            return await self.prefetch(version, ids, server.name)
        except OSError:
            return False

    async def delete(
        self, salt: Salt, keys: Sequence[ChunkKey], *, ram: bool = True, disk: bool = True, host: str | None = None
    ) -> None:
        """Remove chunks from RAM, disk or both; from one host or all of them. Raises OSError where a server did not do it."""
        for server in self:
            if host is not None and server.name != host:
                continue
            await server.delete(keys, salt, ram=ram, disk=disk)
            for here, tier in ((ram, self._ledger.ram(server.name)), (disk, self._ledger.disk(server.name))):
                if here:
                    for key in keys:
                        tier.removed(salt, key)
