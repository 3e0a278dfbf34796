"""Reads versions into the cache: segment by segment, seen on disk, checked with a question, then ready.

The course of a version:
  1. pending: wait for a worker, and for room in the disk tier.
  2. reading: `gateway/ingestion/reader.py` has it read in segments; each is recorded, so a reading that is interrupted goes on
     where it stopped (what was stored is met again, what was not is read again).
  3. stored: every chunk is seen where it outlives the engine.
  4. verified: a question is answered with the whole prefix from the cache.
  5. ready: swapped in. Whatever fails before leaves the old version answering.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from msgspec.structs import replace

from gateway.ingestion.reader import NotKept, Reader
from gateway.pool import WorkerPool
from gateway.shelf.charges import ReadingCharges
from gateway.shelf.documents import Shelf
from observability.telemetry import DOCUMENT, OUTCOME, READING_SPAN, Telemetry
from router.documents import DocumentId, Owner, Version, VersionId, VersionState
from router.errors import EngineFailed, EngineUnavailable, KvshelfError, NotFound, StorageFull, StoreUnavailable

log = structlog.get_logger("ingestion")

ATTEMPTS = 3
"""Failures, of a healthy worker or of keeping the KV, before a version is given up."""
RETRY_S = 0.5
ROOM_RETRY_S = 2.0
"""How often it is looked whether the disk tier has room now."""
PASSED_BY = 8
"""So many that wait for room let others pass, which may be smaller."""

_Job = tuple[Owner, DocumentId, VersionId]


class Ingestion:
    def __init__(self, shelf: Shelf, pool: WorkerPool, reader: Reader, charges: ReadingCharges, telemetry: Telemetry) -> None:
        self._shelf = shelf
        self._charges = charges
        self._pool = pool
        self._reader = reader
        self._telemetry = telemetry
        self._without_room: set[VersionId] = set()

    async def run(self) -> None:
        """Read whatever waits to be read, a version a worker at a time, until cancelled."""
        under_way: dict[_Job, asyncio.Task[None]] = {}
        given_up: set[_Job] = set()
        try:
            while True:
                change = asyncio.ensure_future(self._shelf.change.wait())
                for job in self._waiting():
                    reading = len(under_way) - min(len(self._without_room), PASSED_BY)
                    if job not in under_way and job not in given_up and reading < max(len(self._pool), 1):
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
        with self._telemetry.span(READING_SPAN, {DOCUMENT: document_id}) as span:
            try:
                with self._charges.reading((owner, document_id), version_id):
                    if await self._course(owner, document_id, version_id):
                        outcome = "ready"
            except NotFound:
                pass  # removed meanwhile
            except KvshelfError as error:
                outcome = "failed"
                log.warning("reading_failed", document=document_id, version=version_id, error=str(error))
                await self._fail(owner, document_id, version_id, error)
            span.set_attribute(OUTCOME, outcome)
        seconds = time.perf_counter() - started
        self._telemetry.readings.add(1, {OUTCOME: outcome})
        self._telemetry.reading_time.record(seconds, {OUTCOME: outcome})
        log.info("reading_ended", document=document_id, version=version_id, outcome=outcome, seconds=round(seconds, 2))

    async def _course(self, owner: Owner, document_id: DocumentId, version_id: VersionId) -> bool:
        """True once the version is ready, False where nobody wants it any more. Raises KvshelfError where it can't be read."""
        failures = 0

        async def progress(read_tokens: int) -> bool:
            self._charges.read((owner, document_id), version_id, read_tokens)
            version = self._shelf.incoming(owner, document_id, version_id)
            if version is None:
                return False
            reading = replace(version, state=VersionState.READING, read_tokens=read_tokens, error=None)
            await self._shelf.record(owner, document_id, reading)
            return self._shelf.incoming(owner, document_id, version_id) is not None

        while (version := self._shelf.incoming(owner, document_id, version_id)) is not None:
            try:
                await self._reader.read(version, start=version.read_tokens, progress=progress)
                read = self._shelf.incoming(owner, document_id, version_id)
                if read is None:
                    break
                await self._shelf.promote(owner, document_id, read)
                return True
            except EngineFailed as error:
                failures += 1
                if failures == ATTEMPTS:
                    raise
                log.info("reading_again", document=document_id, version=version_id, failures=failures, error=str(error))
                if isinstance(error, NotKept):
                    await self._begin_anew(owner, document_id, version_id)
            except EngineUnavailable:
                await asyncio.sleep(RETRY_S)
            except StorageFull as error:
                self._without_room.add(version_id)
                try:
                    await self._note(owner, document_id, replace(version, error=str(error)))  # a change: others pass
                    await asyncio.sleep(ROOM_RETRY_S)
                finally:
                    self._without_room.discard(version_id)
            except StoreUnavailable as error:
                log.warning("reading_postponed", document=document_id, version=version_id, error=str(error))
                await asyncio.sleep(RETRY_S)
        return False

    async def _begin_anew(self, owner: Owner, document_id: DocumentId, version_id: VersionId) -> None:
        version = self._shelf.incoming(owner, document_id, version_id)
        if version is not None:
            await self._note(owner, document_id, replace(version, read_tokens=0))

    async def _note(self, owner: Owner, document_id: DocumentId, version: Version) -> None:
        """Record it, if the database takes it now."""
        try:
            await self._shelf.record(owner, document_id, version)
        except StoreUnavailable as error:
            log.warning("reading_not_noted", document=document_id, version=version.id, error=str(error))

    async def _fail(self, owner: Owner, document_id: DocumentId, version_id: VersionId, error: KvshelfError) -> None:
        """Have it stored why the version could not be read, once the database takes it."""
        while (version := self._shelf.incoming(owner, document_id, version_id)) is not None:
            try:
                await self._shelf.record(owner, document_id, replace(version, state=VersionState.FAILED, error=str(error)))
                return
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
