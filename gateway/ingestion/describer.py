"""Has the engine write what a document's owner left out for routing: a summary and sample questions (`router/describing.py`).

Of documents whose KV is at hand, one at a time, on a worker that has nothing else to do: a live question that comes meanwhile
ends it, and it is begun again later. Nothing needs it: what fails is logged. A version is tried once while the gateway runs.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from backends.base import Store, Worker
from gateway.pool import WorkerPool
from gateway.shelf.documents import Shelf
from gateway.shelf.prefixes import PrefixCache
from gateway.shelf.reading import Reading
from router.describing import MAX_TOKENS, WORDINGS, Written, cleaned, lacking
from router.documents import Document, Version, VersionId, VersionState
from router.errors import EngineUnavailable, KvshelfError, StoreUnavailable
from router.prompts import answer_tokens, suffix_ids
from router.residency import Ledger
from router.upstream import Sampling, body

log = structlog.get_logger("describer")

_SAMPLING = Sampling(temperature=0)


class Describer:
    def __init__(
        self,
        store: Store,
        shelf: Shelf,
        pool: WorkerPool,
        prefixes: PrefixCache,
        ledger: Ledger,
        reading: Reading,
        *,
        rest_s: float,
    ) -> None:
        """`rest_s`: between two looks for a document at hand and an idle worker. No event tells of either."""
        self._store = store
        self._shelf = shelf
        self._pool = pool
        self._prefixes = prefixes
        self._ledger = ledger
        self._reading = reading
        self._rest_s = rest_s
        self._tried: set[VersionId] = set()

    async def run(self) -> None:
        """Describe what lacks it, until cancelled."""
        while True:
            change = self._shelf.change
            waiting = self._waiting()
            if not self._is_reading():
                for document, version in waiting:
                    if (worker := self._pool.pick_idle(version)) is not None:
                        await self._describe(document, version, worker)
                        break
            if any(version.id not in self._tried for _, version in waiting):
                with suppress(TimeoutError):
                    await asyncio.wait_for(change.wait(), self._rest_s)
            else:
                await change.wait()

    def _waiting(self) -> list[tuple[Document, Version]]:
        """Those that lack something, each with the version that answers: not while another one replaces it."""
        found = []
        for document in self._shelf.catalog:
            version = document.current
            if version is None or document.incoming is not None or self._shelf.is_stale(document) or version.id in self._tried:
                continue
            if version.state is VersionState.READY and lacking(document):
                found.append((document, version))
        return found

    def _is_reading(self) -> bool:
        """Whether documents are being read, which comes first; one that waits for room is not."""
        coming = [document.incoming for document in self._shelf.catalog if document.incoming is not None]
        return any(version.state is not VersionState.FAILED and version.error is None for version in coming)

    async def _describe(self, document: Document, version: Version, worker: Worker) -> None:
        """Have it written and kept, unless a live question comes first."""
        writing = asyncio.create_task(self._write(document, version, worker))
        asked = asyncio.create_task(self._pool.asked(worker))
        try:
            await asyncio.wait((writing, asked), return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                log.info("description_put_off", document=document.id, why="a question came")
                return
            written = writing.result()
            self._tried.add(version.id)
            await self._shelf.describe(document.owner, document.id, version.id, written)
            log.info("described", document=document.id, written=sorted(written))
        except (EngineUnavailable, StoreUnavailable) as error:
            self._tried.discard(version.id)
            log.info("description_put_off", document=document.id, why=str(error))
        except KvshelfError as error:
            self._tried.add(version.id)
            log.warning("not_described", document=document.id, error=str(error))
        finally:
            for task in (writing, asked):
                task.cancel()
            await asyncio.gather(writing, asked, return_exceptions=True)

    async def _write(self, document: Document, version: Version, worker: Worker) -> Written:
        """What of the model's answers is fit to be kept."""
        written: dict[str, str | tuple[str, ...]] = {}
        self._ledger.lease(version)
        try:
            text = (await self._store.content(version.id)).text
            for name in lacking(document):
                if value := cleaned(name, await self._answer(version, worker, name), text):
                    written[name] = value
        finally:
            self._ledger.release(version)
        return written

    async def _answer(self, version: Version, worker: Worker, name: str) -> str:
        prefix = await self._prefixes.get(version)
        turns = ({"role": "user", "content": WORDINGS[name]},)
        suffix = suffix_ids(self._reading.layout, self._reading.tokenizer, turns)
        left = answer_tokens(prefix=version.prefix_tokens, suffix=len(suffix), context=self._reading.context_tokens, asked=None)
        request = body(
            prefix.opening,
            suffix,
            salt=version.salt,
            keep_tokens=0,  # nothing beyond what is kept already
            max_tokens=min(left, MAX_TOKENS[name]),
            sampling=_SAMPLING,
        )
        with self._pool.slot(worker, beside=True):
            async with worker.complete(request) as deltas:
                return "".join([delta.text async for delta in deltas])
