"""Where matching can't tell which document a question is about, the engine is asked: each of the first few, behind its own KV.

1. Only documents whose KV is at hand (on a GPU or in RAM) are asked: nothing is read, restored or kept for it.
2. All at once, one token each, within a time limit; what has not answered by then is aborted.
3. What follows is `router/second_look.py`'s. Whatever goes wrong, the first decision stands.

It is part of finding the document: neither a question of the tenant's nor a use of the document is booked. But what was computed
is charged to the asking tenant's and key's tokens; where these have no room, it is not taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from gateway.errors import LimitReached
from gateway.pool import WorkerPool
from gateway.sections import Routing
from gateway.sections import SecondLook as Limits
from gateway.shelf.documents import Shelf
from gateway.shelf.prefixes import PrefixCache
from gateway.shelf.reading import Reading
from gateway.tenants.limiter import Admission
from observability.telemetry import OUTCOME, Telemetry
from router.documents import DocumentId, Version, VersionState
from router.errors import KvshelfError, NotFound
from router.matching import Decision, Match, Route
from router.prompts import suffix_ids
from router.residency import Ledger
from router.second_look import ALTERNATIVES, doubtful, reconsidered, verdict, wording
from router.upstream import Sampling, body
from router.viewers import Viewer

log = structlog.get_logger("second_look")

_SAMPLING = Sampling(temperature=0, logprobs=ALTERNATIVES)


class SecondLook:
    def __init__(
        self,
        shelf: Shelf,
        pool: WorkerPool,
        prefixes: PrefixCache,
        ledger: Ledger,
        reading: Reading,
        telemetry: Telemetry,
        routing: Routing,
    ) -> None:
        self._shelf = shelf
        self._pool = pool
        self._prefixes = prefixes
        self._ledger = ledger
        self._reading = reading
        self._telemetry = telemetry
        self._routing = routing

    async def take(self, decision: Decision, viewer: Viewer, question: str, admission: Admission | None = None) -> Decision:
        """The decision about this question, after a second look where one is worth while and can be had.

        `admission`: what the request may take, None for no limits.
        """
        limits = self._routing.second_look
        if limits is None or not doubtful(decision, lead_below=limits.lead_below):
            return decision
        outcome, found = await self._look(limits, decision, viewer, question, admission)
        self._telemetry.second_looks.add(1, {OUTCOME: outcome})
        return found

    async def _look(
        self, limits: Limits, decision: Decision, viewer: Viewer, question: str, admission: Admission | None
    ) -> tuple[str, Decision]:
        warm = self._warm(decision.candidates[: limits.candidates], viewer)
        if len(warm) < 2:
            return "cold", decision  # of one alone it could not be told from its habit
        turns = ({"role": "user", "content": wording(question)},)
        suffix = suffix_ids(self._reading.layout, self._reading.tokenizer, turns)
        try:
            hold = await admission.reserve(len(warm) * len(suffix), len(warm)) if admission is not None else None
        except LimitReached:
            return "no_tokens", decision
        took: list[int] = []
        asked = {document: asyncio.create_task(self._verdict(version, suffix, took)) for document, version in warm.items()}
        try:
            _, late = await asyncio.wait(asked.values(), timeout=limits.time_limit_s)
        finally:
            for task in asked.values():
                task.cancel()
            await asyncio.gather(*asked.values(), return_exceptions=True)
            if hold is not None:
                hold.settle(sum(took))
        told = {document: task.result() for document, task in asked.items() if task not in late}
        verdicts = {document: word for document, word in told.items() if word is not None}
        if len(verdicts) < 2:
            return "timed_out" if late else "failed", decision
        found = reconsidered(decision, verdicts, self._routing)
        return "decided" if isinstance(found, Route) else "undecided", found

    def _warm(self, candidates: Sequence[Match], viewer: Viewer) -> dict[DocumentId, Version]:
        """Those of the candidates that can be asked without anything being read."""
        found = {}
        for match in candidates:
            try:
                document = self._shelf.catalog.find(viewer, match.document)
            except NotFound:
                continue  # removed meanwhile
            version = document.current
            answers = version is not None and version.state is VersionState.READY and not self._shelf.is_stale(document)
            if version is not None and answers and self._pool.warm(version):
                found[document.id] = version
        return found

    async def _verdict(self, version: Version, suffix: list[int], took: list[int]) -> float | None:
        """The engine's word on one document; None where it has none. The tokens that were computed are added to `took`."""
        self._ledger.lease(version)
        try:
            prefix = await self._prefixes.get(version)
            if version.prefix_tokens + len(suffix) >= self._reading.context_tokens:
                return None
            request = body(prefix.opening, suffix, salt=version.salt, keep_tokens=0, max_tokens=1, sampling=_SAMPLING)
            worker = self._pool.pick_warm(version)
            word = None
            with self._pool.slot(worker), self._pool.waiting(worker):
                async with worker.complete(request) as deltas:
                    async for delta in deltas:
                        if (usage := delta.usage) is not None:
                            took.append(max(usage.prompt_tokens - usage.cached_tokens, 0) + usage.completion_tokens)
                        alternatives = delta.logprobs.top_logprobs if delta.logprobs is not None else None
                        if word is None and alternatives and alternatives[0]:
                            word = verdict(alternatives[0])
        except KvshelfError as error:
            log.info("second_look_failed", version=version.id, error=str(error))
            return None
        else:
            return word
        finally:
            self._ledger.release(version)
