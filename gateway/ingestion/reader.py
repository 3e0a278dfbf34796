"""Has workers read a version's prefix: in segments, room made first, and seen stored afterwards.

Used for a version that is new (`gateway/ingestion/ingestion.py`), and again for one whose KV was evicted or damaged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from backends.base import Usage, Worker
from gateway.pool import ANY, WorkerPool
from gateway.shelf.documents import Shelf
from gateway.shelf.prefixes import PrefixCache, PreparedPrefix
from gateway.shelf.reading import Reading
from gateway.tiers.disk_keeper import DiskKeeper
from gateway.tiers.hosts import Hosts
from gateway.tiers.ram_keeper import RamKeeper
from gateway.tiers.speeds import Speeds
from observability.telemetry import Telemetry
from router.documents import Version
from router.errors import EngineFailed, EngineUnavailable, StorageFull
from router.pacing import Pace, next_segment
from router.prompts import suffix_ids
from router.residency import Ledger
from router.upstream import body, opening

log = structlog.get_logger("reader")

STORED_WITHIN_S = 30.0
POLL_S = 0.1
RETRY_S = 0.5

_CHECK_QUESTION = ({"role": "user", "content": "What is this document about?"},)

Progress = Callable[[int], Awaitable[bool]]
"""Told how many tokens have been read; False ends the reading there."""


class NotKept(EngineFailed):
    """It was read to its end, and yet the cache does not have it."""


class Reader:
    def __init__(
        self,
        shelf: Shelf,
        pool: WorkerPool,
        hosts: Hosts,
        keeper: DiskKeeper,
        ram: RamKeeper,
        prefixes: PrefixCache,
        ledger: Ledger,
        reading: Reading,
        speeds: Speeds,
        telemetry: Telemetry,
        *,
        model: str,
        segment_target_s: float,
        stored_within_s: float = STORED_WITHIN_S,
    ) -> None:
        self._shelf = shelf
        self._pool = pool
        self._hosts = hosts
        self._keeper = keeper
        self._ram = ram
        self._prefixes = prefixes
        self._ledger = ledger
        self._reading = reading
        self._speeds = speeds
        self._telemetry = telemetry
        self._model = model
        self._segment_target_s = segment_target_s
        self._stored_within_s = stored_within_s

    async def read(
        self,
        version: Version,
        *,
        start: int = 0,
        host: str | None = None,
        worker: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Have the whole prefix read, stored, and answered from; by this worker, or one of this host, where one is named.

        `start`: how many tokens have been read already (a multiple of the chunk size). Raises NotKept,
        EngineFailed, EngineUnavailable, StorageFull or NotFound where it came to nothing; returns early where `progress` says so.
        """
        await self._pool.usable()
        self._ledger.lease(version)
        try:
            prefix = await self._prefixes.get(version)
            self._hosts.know(version, prefix.ids)
            reader = await self._admitted(version, host, worker)
            host = self._ledger.host_of(reader.name)
            try:
                await self._ram.make_room(version, host)
                await self._have_written(version, host)
                if not await self._segments(version, prefix, reader, start, progress):
                    return
                if not await self._stored(version, prefix, host) or not await self._verified(version, prefix, host):
                    raise NotKept(
                        "The document was read, but its KV was not kept. Is the KV server up, and is there room on its disk?"
                    )
            finally:
                await self._settle(version, prefix, host)
        finally:
            self._ledger.release(version)

    async def _admitted(self, version: Version, host: str | None, worker: str | None) -> Worker:
        """A worker whose host has promised the version its room. Where the one it belongs to has none, another is asked."""
        if host is not None or worker is not None:
            reader = self._pool.pick(version, host=host, worker=worker, beyond=ANY)
            await self._keeper.admit(self._shelf, version, self._ledger.host_of(reader.name))
            return reader
        names = frozenset(name for name, _ in self._pool.running)
        lost = frozenset(name for name in names if self._ledger.host_of(name) in self._hosts.problems)
        avoid = lost if lost < names else frozenset[str]()
        full: StorageFull | None = None
        while True:
            try:
                reader = self._pool.pick(version, avoid=avoid, beyond=ANY)
            except EngineUnavailable as error:
                raise full or error from None
            at = self._ledger.host_of(reader.name)
            try:
                await self._keeper.admit(self._shelf, version, at)
            except StorageFull as error:
                full = error
                avoid |= {name for name in names if self._ledger.host_of(name) == at}
            else:
                return reader

    async def touch(self, version: Version, worker: str) -> None:
        """Have this worker answer one token, so that its GPU tier holds the version afterwards. Raises as `read` does."""
        self._ledger.lease(version)
        try:
            prefix = await self._prefixes.get(version)
            await self._ask(
                self._pool.pick(version, worker=worker, beyond=ANY),
                body(prefix.opening, self._check_suffix(), salt=version.salt, keep_tokens=version.prefix_tokens, max_tokens=1),
            )
        finally:
            self._ledger.release(version)

    async def _settle(self, version: Version, prefix: PreparedPrefix, host: str | None) -> None:
        """Give the promise of room back, once what was written is known to the ledger: also where the reading broke off."""
        try:
            with suppress(OSError):
                await self._hosts.look(version, prefix.ids)
        finally:
            self._keeper.settle(version, host)

    async def _have_written(self, version: Version, host: str | None) -> None:
        """Drop from RAM what is not on the host's disk: the KV server writes a chunk only as it comes to RAM, and never later."""
        if host is None or version.salt not in self._ledger.ram(host).salts:
            return
        on_disk = set(self._ledger.disk(host).keys(version.salt))
        missing = [key for key in self._ledger.ram(host).keys(version.salt) if key not in on_disk]
        try:
            if missing and (server := self._hosts.get(host)) is not None and server.sees_disk:
                await self._hosts.delete(version.salt, missing, disk=False, host=host)
        except OSError as error:
            log.info("not_dropped_from_ram", host=host, version=version.id, error=str(error))

    def _check_suffix(self) -> list[int]:
        return suffix_ids(self._reading.layout, self._reading.tokenizer, _CHECK_QUESTION)

    async def _segments(
        self, version: Version, prefix: PreparedPrefix, worker: Worker, read: int, progress: Progress | None
    ) -> bool:
        """Read on to the end; False where `progress` ended it."""
        pace = Pace()
        while read < version.prefix_tokens:
            end = next_segment(
                read,
                version.prefix_tokens,
                chunk=self._reading.layout.chunk_tokens,
                pace=pace,
                target_s=self._segment_target_s,
                waiting=self._pool.busy(worker),
            )
            await self._pool.quiet(worker, at_most_s=self._segment_target_s)
            is_idle, started = not self._pool.busy(worker), time.perf_counter()
            try:
                usage = await self._ask(
                    worker, body(opening(self._model, prefix.ids[:end]), (), salt=version.salt, keep_tokens=end, max_tokens=1)
                )
            except EngineUnavailable as error:
                self._pool.failed(worker, str(error))
                raise
            except EngineFailed as error:
                if await self._is_out(worker):
                    raise EngineUnavailable(str(error)) from error
                raise
            took_s = time.perf_counter() - started
            pace = pace.after(end - read, took_s)
            computed = usage.prompt_tokens - usage.cached_tokens
            if is_idle and computed >= self._reading.layout.chunk_tokens:
                self._speeds.measured(worker.name, computed, took_s)
            self._telemetry.read_tokens.add(end - read)
            read = end
            if progress is not None and not await progress(read):
                return False
        return True

    async def _stored(self, version: Version, prefix: PreparedPrefix, host: str | None) -> bool:
        """Whether every chunk is seen stored in time. While the KV server is down it is waited for."""
        server = self._hosts.get(host)
        deadline = time.monotonic() + self._stored_within_s
        while not await self._hosts.stored(version, prefix.ids, host):
            if server is not None and await server.check() is not None:
                deadline = time.monotonic() + self._stored_within_s
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def _verified(self, version: Version, prefix: PreparedPrefix, host: str | None) -> bool:
        """Whether a question is answered with the whole prefix from the cache."""
        question = body(prefix.opening, self._check_suffix(), salt=version.salt, keep_tokens=version.prefix_tokens, max_tokens=1)
        while True:
            await self._pool.usable()
            with suppress(EngineUnavailable):
                worker = self._pool.pick(version, host=host, beyond=ANY)
                try:
                    usage = await self._ask(worker, question)
                except EngineFailed:
                    if await self._is_out(worker):
                        continue
                    raise
                return usage.cached_tokens >= version.prefix_tokens
            await asyncio.sleep(RETRY_S)

    async def _is_out(self, worker: Worker) -> bool:
        """Whether the worker that broke a request off is gone, a moment later: then it was no fault of the document."""
        await asyncio.sleep(RETRY_S)
        return worker.name in self._pool.problems or await worker.check() is not None

    async def _ask(self, worker: Worker, parts: tuple[bytes, bytes]) -> Usage:
        """Send one request and read it to its end."""
        usage = Usage()
        with self._pool.slot(worker, beside=True):
            async with worker.complete(parts) as deltas:
                async for delta in deltas:
                    usage = delta.usage or usage
        return usage
