"""Asks a worker a question about a document: laid out, sent to the right worker, and the answer's deltas handed on.

1. The question is laid out behind the version's stored prefix; what does not fit the context is refused.
2. The version is leased, a worker picked, the body spliced and sent.
3. A version whose KV is nowhere is read by the question itself (`gateway/asking/cold.py`).
4. A worker that fails before the first delta is replaced once, after it the failure is the caller's to tell.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import structlog

from backends.base import Delta, Worker
from gateway.asking.cold import ColdQuestions
from gateway.asking.course import Chosen, Course
from gateway.pool import WorkerPool
from gateway.shelf.documents import Shelf
from gateway.shelf.prefixes import PrefixCache, PreparedPrefix
from gateway.shelf.reading import Reading
from gateway.tiers.hosts import Hosts
from gateway.tiers.ram_keeper import RamKeeper
from observability.telemetry import Telemetry
from router.documents import Salt, Version
from router.errors import EngineFailed, EngineUnavailable
from router.prompts import Message, answer_tokens, suffix_ids
from router.residency import Ledger, Tier
from router.upstream import Sampling, body

log = structlog.get_logger("asker")

LONG_CHARACTERS = 20_000
"""Messages longer than this are tokenized off the event loop."""


class Question(msgspec.Struct, frozen=True):
    """What a client asks. `bypass`: past all KV, and nothing of it is kept."""

    turns: Sequence[Message]
    system: str
    answer_tokens: int | None
    sampling: Sampling
    bypass: bool = False


class _LaidOut(msgspec.Struct, frozen=True):
    """A question as it stands behind its document's prefix."""

    prefix: PreparedPrefix
    suffix: list[int]
    max_tokens: int
    sampling: Sampling
    salt: Salt

    def body(self, keep_tokens: int) -> tuple[bytes, bytes]:
        return body(
            self.prefix.opening,
            self.suffix,
            salt=self.salt,
            keep_tokens=keep_tokens,
            max_tokens=self.max_tokens,
            sampling=self.sampling,
        )


class Asker:
    def __init__(
        self,
        shelf: Shelf,
        pool: WorkerPool,
        hosts: Hosts,
        cold: ColdQuestions,
        ram: RamKeeper,
        prefixes: PrefixCache,
        ledger: Ledger,
        reading: Reading,
        telemetry: Telemetry,
        *,
        suspect: Callable[[Version], None],
        now: Callable[[], float],
    ) -> None:
        """`suspect` is told of a version of which less was met than was believed to be there."""
        self._shelf = shelf
        self._suspect = suspect
        self._pool = pool
        self._hosts = hosts
        self._cold = cold
        self._ram = ram
        self._prefixes = prefixes
        self._ledger = ledger
        self._reading = reading
        self._telemetry = telemetry
        self._now = now

    @asynccontextmanager
    async def ask(self, question: Question, chosen: Chosen, course: Course) -> AsyncIterator[AsyncIterator[Delta]]:
        """The answer's deltas, from the first on. Raises KvshelfError for what goes wrong before it."""
        self._ledger.lease(chosen.version)
        try:
            laid_out = await self._lay_out(question, chosen.version)
            async with self._deltas(question, laid_out, chosen, course) as deltas:
                yield deltas
            if course.met_too_little:
                self._suspect(chosen.version)
        finally:
            self._ledger.release(chosen.version)

    async def _lay_out(self, question: Question, version: Version) -> _LaidOut:
        prefix = await self._prefixes.get(version)
        self._hosts.know(version, prefix.ids)
        turns, system = question.turns, question.system
        if sum(len(turn["content"]) for turn in turns) + len(system) > LONG_CHARACTERS:
            suffix = await asyncio.to_thread(suffix_ids, self._reading.layout, self._reading.tokenizer, turns, system)
        else:
            suffix = suffix_ids(self._reading.layout, self._reading.tokenizer, turns, system)
        tokens = answer_tokens(
            prefix=version.prefix_tokens, suffix=len(suffix), context=self._reading.context_tokens, asked=question.answer_tokens
        )
        # Past the cache, a salt of its own meets no KV.
        salt = Salt(secrets.token_hex(32)) if question.bypass else version.salt
        return _LaidOut(prefix, suffix, tokens, question.sampling, salt)

    @asynccontextmanager
    async def _deltas(
        self, question: Question, laid_out: _LaidOut, chosen: Chosen, course: Course
    ) -> AsyncIterator[AsyncIterator[Delta]]:
        avoid: frozenset[str] = frozenset()
        while True:
            worker = course.worker = self._pool.pick(chosen.version, avoid=avoid)
            with self._pool.slot(worker):
                try:
                    async with AsyncExitStack() as answering:
                        deltas, first = await self._first(question, laid_out, chosen, course, worker, answering)
                        yield _chained(first, deltas)
                        return
                except (EngineUnavailable, EngineFailed) as error:
                    if isinstance(error, EngineUnavailable):
                        self._pool.failed(worker, str(error))
                    if course.first_token_s is not None or avoid or len(self._pool) < 2:
                        raise
                    avoid = frozenset({worker.name})
                    self._telemetry.retries.add(1)
                    log.info("question_retried", worker=worker.name, error=str(error))

    async def _first(
        self,
        question: Question,
        laid_out: _LaidOut,
        chosen: Chosen,
        course: Course,
        worker: Worker,
        answering: AsyncExitStack,
    ) -> tuple[AsyncIterator[Delta], Delta]:
        """Send it and wait for the first delta; the rest of them, and that one. `answering` holds the answer open."""
        version = chosen.version
        async with AsyncExitStack() as starting:
            course.tier = self._tier(question, version, worker)
            if course.tier is Tier.NONE and not question.bypass:
                await starting.enter_async_context(self._cold.turn(version))
                course.tier = self._tier(question, version, worker)
            keep_tokens = version.prefix_tokens
            if question.bypass or not await self._keeps(chosen, laid_out, worker, answering):
                keep_tokens = 0
            if course.tier is Tier.DISK:
                host = self._ledger.host_of(worker.name)
                await starting.enter_async_context(self._ram.restoring(version, laid_out.prefix.ids, host))
            course.gpu_tokens = (
                0 if question.bypass else round(self._ledger.gpu_share(version, worker.name) * version.prefix_tokens)
            )
            deltas = await answering.enter_async_context(worker.complete(laid_out.body(keep_tokens)))
            with self._pool.waiting(worker):
                first = await anext(deltas, None)
        if first is None:
            raise EngineFailed(f"Worker {worker.name} answered nothing.")
        course.first_token()
        return deltas, first

    async def _keeps(self, chosen: Chosen, laid_out: _LaidOut, worker: Worker, answering: AsyncExitStack) -> bool:
        """Whether what the question has stored may stay: not for a document that expired, nor where there is no room.

        The engine stores what the host lacks, be it read just now or on the GPU already.
        """
        version, host = chosen.version, self._ledger.host_of(worker.name)
        if chosen.document.expired(self._now()):
            return False
        server = self._hosts.get(host)
        is_seen = server is not None and server.sees_disk
        if not is_seen or self._ledger.disk_share(version, host) >= 1:
            return True
        if self._ledger.ram_share(version, host) >= 1:
            return False  # nothing is missing; should it leave RAM meanwhile, no room was made for it on disk
        if not await self._cold.keeps(self._shelf, version, host):
            return False
        answering.callback(self._cold.written, version, laid_out.prefix.ids, host)
        return True

    def _tier(self, question: Question, version: Version, worker: Worker) -> Tier:
        """Where the prefix will come from, as far as can be known."""
        if question.bypass:
            return Tier.NONE
        tier = self._ledger.tier(version, worker.name)
        server = self._hosts.get(self._ledger.host_of(worker.name))
        return Tier.UNKNOWN if tier is Tier.NONE and server is not None and not server.sees_disk else tier


async def _chained(first: Delta, rest: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    yield first
    async for delta in rest:
        yield delta
