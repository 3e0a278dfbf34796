"""Reads versions into the cache: segment by segment, seen on disk, checked with a question, then ready.

The course of a version:
  1. pending: wait for a worker.
  2. reading: growing prefixes, one request each, sized by `router/planner.py`; each is recorded, so a reading that is
     interrupted goes on where it stopped (what was stored is met again, what was not is read again).
  3. stored: every chunk is seen where it outlives the engine.
  4. verified: a question is answered with the whole prefix from the cache.
  5. ready: swapped in. Whatever fails before leaves the old version answering.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import structlog
from msgspec.structs import replace

from backends.base import KVServer, Usage, Worker
from gateway.documents import Reading, Shelf
from gateway.pool import WorkerPool
from gateway.prefixes import PrefixCache, PreparedPrefix
from observability.telemetry import DOCUMENT, OUTCOME, READING_SPAN, Telemetry
from router.documents import DocumentId, Owner, Version, VersionId, VersionState
from router.errors import EngineFailed, EngineUnavailable, KvshelfError, NotFound, StoreUnavailable
from router.planner import Pace, next_segment
from router.prompts import suffix_ids
from router.residency import Ledger
from router.upstream import body, opening

log = structlog.get_logger("ingestion")

ATTEMPTS = 3
"""Failures, of a healthy worker or of keeping the KV, before a version is given up."""
STORED_WITHIN_S = 30.0
POLL_S = 0.1
RETRY_S = 0.5

_CHECK_QUESTION = ({"role": "user", "content": "What is this document about?"},)

_Job = tuple[Owner, DocumentId, VersionId]


class Ingestion:
    def __init__(
        self,
        shelf: Shelf,
        pool: WorkerPool,
        prefixes: PrefixCache,
        kv_server: KVServer | None,
        ledger: Ledger,
        reading: Reading,
        telemetry: Telemetry,
        *,
        model: str,
        segment_target_s: float,
        stored_within_s: float = STORED_WITHIN_S,
    ) -> None:
        self._shelf = shelf
        self._pool = pool
        self._prefixes = prefixes
        self._kv_server = kv_server
        self._ledger = ledger
        self._reading = reading
        self._telemetry = telemetry
        self._model = model
        self._segment_target_s = segment_target_s
        self._stored_within_s = stored_within_s

    async def run(self) -> None:
        """Read whatever waits to be read, a version a worker at a time, until cancelled."""
        under_way: dict[_Job, asyncio.Task[None]] = {}
        given_up: set[_Job] = set()
        try:
            while True:
                change = asyncio.ensure_future(self._shelf.change.wait())
                for job in self._waiting():
                    if job not in under_way and job not in given_up and len(under_way) < max(len(self._pool), 1):
                        under_way[job] = asyncio.create_task(self._read(*job))
                try:
                    await asyncio.wait([change, *under_way.values()], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()
                for job in [job for job, task in under_way.items() if task.done()]:
                    if (bug := under_way.pop(job).exception()) is not None:
                        log.error("reading_crashed", document=job[1], version=job[2], exc_info=bug)
                        given_up.add(job)  # until the next start: the others must be read all the same
        finally:
            for task in under_way.values():
                task.cancel()
            await asyncio.gather(*under_way.values(), return_exceptions=True)

    def _waiting(self) -> list[_Job]:
        """Versions to be read, the oldest first."""
        documents = [d for d in self._shelf.catalog if d.incoming is not None and d.incoming.state is not VersionState.FAILED]
        documents.sort(key=lambda d: d.incoming.created_at if d.incoming else 0.0)
        return [(d.owner, d.id, d.incoming.id) for d in documents if d.incoming is not None]

    async def _read(self, owner: Owner, document_id: DocumentId, version_id: VersionId) -> None:
        """One version, from wherever it stands to ready or failed."""
        started = time.perf_counter()
        outcome = "superseded"
        self._ledger.lease(version_id)  # a superseded version is cleared only when its last segment is through
        with self._telemetry.tracer.start_as_current_span(READING_SPAN, attributes={DOCUMENT: document_id}) as span:
            try:
                if await self._course(owner, document_id, version_id):
                    outcome = "ready"
            except NotFound:
                pass  # removed meanwhile
            except KvshelfError as error:
                outcome = "failed"
                log.warning("reading_failed", document=document_id, version=version_id, error=str(error))
                await self._fail(owner, document_id, version_id, error)
            finally:
                self._ledger.release(version_id)
            span.set_attribute(OUTCOME, outcome)
        seconds = time.perf_counter() - started
        self._telemetry.readings.add(1, {OUTCOME: outcome})
        self._telemetry.reading_time.record(seconds, {OUTCOME: outcome})
        log.info("reading_ended", document=document_id, version=version_id, outcome=outcome, seconds=round(seconds, 2))

    async def _course(self, owner: Owner, document_id: DocumentId, version_id: VersionId) -> bool:
        """True once the version is ready, False where nobody wants it any more. Raises KvshelfError where it can't be read."""
        failures = 0
        while (version := self._shelf.incoming(owner, document_id, version_id)) is not None:
            try:
                prefix = await self._prefixes.get(version)
                if version.read_tokens < version.prefix_tokens:
                    await self._segments(owner, document_id, version, prefix)
                elif await self._stored(prefix, version) and await self._verified(version, prefix):
                    await self._shelf.promote(owner, document_id, version)
                    return True
                else:
                    await self._shelf.record(owner, document_id, replace(version, read_tokens=0))
                    raise EngineFailed(
                        "The document was read, but its KV was not kept. Is the KV server up, and is there room on its disk?"
                    )
            except EngineFailed as error:
                failures += 1
                if failures == ATTEMPTS:
                    raise
                log.info("reading_again", document=document_id, version=version_id, failures=failures, error=str(error))
            except StoreUnavailable as error:
                log.warning("reading_postponed", document=document_id, version=version_id, error=str(error))
                await asyncio.sleep(RETRY_S)
        return False

    async def _fail(self, owner: Owner, document_id: DocumentId, version_id: VersionId, error: KvshelfError) -> None:
        """Have it stored why the version could not be read, once the database takes it."""
        while (version := self._shelf.incoming(owner, document_id, version_id)) is not None:
            try:
                await self._shelf.record(owner, document_id, replace(version, state=VersionState.FAILED, error=str(error)))
                return
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)

    async def _segments(self, owner: Owner, document_id: DocumentId, version: Version, prefix: PreparedPrefix) -> None:
        """Read on until the end, until the version is superseded, or until the worker fails."""
        await self._pool.usable()
        try:
            worker = self._pool.pick(version)
        except EngineUnavailable:
            await asyncio.sleep(RETRY_S)
            return
        pace = Pace()
        while version.read_tokens < version.prefix_tokens:
            end = next_segment(
                version.read_tokens,
                version.prefix_tokens,
                chunk=self._reading.layout.chunk_tokens,
                pace=pace,
                target_s=self._segment_target_s,
                waiting=self._pool.busy(worker),
            )
            await self._pool.quiet(worker, at_most_s=self._segment_target_s)
            started = time.perf_counter()
            try:
                await self._ask(
                    worker, body(opening(self._model, prefix.ids[:end]), (), salt=version.salt, keep_tokens=end, max_tokens=1)
                )
            except EngineUnavailable as error:
                self._pool.failed(worker, str(error))
                return
            except EngineFailed:
                if await self._is_out(worker):
                    return
                raise
            pace = pace.after(end - version.read_tokens, time.perf_counter() - started)
            self._telemetry.read_tokens.add(end - version.read_tokens)
            version = replace(version, state=VersionState.READING, read_tokens=end)
            await self._shelf.record(owner, document_id, version)
            if self._shelf.incoming(owner, document_id, version.id) is None:
                return

    async def _stored(self, prefix: PreparedPrefix, version: Version) -> bool:
        """Whether every chunk is seen stored in time. While the KV server is down it is waited for."""
        if self._kv_server is None:
            return True
        deadline = time.monotonic() + self._stored_within_s
        while not await self._kv_server.stored(prefix.ids, version.salt):
            if await self._kv_server.check() is not None:
                deadline = time.monotonic() + self._stored_within_s
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def _verified(self, version: Version, prefix: PreparedPrefix) -> bool:
        """Whether a question is answered with the whole prefix from the cache."""
        suffix = suffix_ids(self._reading.layout, self._reading.tokenizer, _CHECK_QUESTION)
        question = body(prefix.opening, suffix, salt=version.salt, keep_tokens=version.prefix_tokens, max_tokens=1)
        while True:
            await self._pool.usable()
            with suppress(EngineUnavailable):
                worker = self._pool.pick(version)
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
        with self._pool.slot(worker):
            async with worker.complete(parts) as deltas:
                async for delta in deltas:
                    usage = delta.usage or usage
        return usage
