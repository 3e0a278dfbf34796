"""Asks a worker a question about a document: laid out, sent to the right worker, and the answer's deltas handed on.

1. The question is laid out behind the version's stored prefix; what does not fit the context is refused.
2. The version is leased, the question waits for its turn (`gateway/asking/queue.py`), a worker is picked, the body spliced and sent.
3. A version whose KV is nowhere is read by the question itself (`gateway/asking/cold.py`).
4. A worker that fails before the first delta is replaced once, after it the failure is the caller's to tell.

A text that is no document is asked about by the same steps, but past all KV and with nothing kept.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog

from backends.base import Delta, Worker
from gateway.asking.cold import ColdQuestions
from gateway.asking.course import Chosen, Course
from gateway.asking.question import LaidOut, Question
from gateway.asking.queue import Queue
from gateway.asking.ticket import Ticket
from gateway.pool import WorkerPool
from gateway.shelf.documents import Shelf
from gateway.shelf.prefixes import PrefixCache, PreparedPrefix
from gateway.shelf.reading import Reading
from gateway.tiers.hosts import Hosts
from gateway.tiers.ram_keeper import RamKeeper
from observability.telemetry import Telemetry
from router.documents import Document, Salt, Version, VersionId, content_digest
from router.errors import EngineFailed, EngineUnavailable
from router.prompts import answer_tokens, prefix_of, suffix_ids
from router.residency import Ledger, Tier

log = structlog.get_logger("asker")

LONG_CHARACTERS = 20_000
"""Messages longer than this are tokenized off the event loop."""


class Asker:
    def __init__(
        self,
        shelf: Shelf,
        pool: WorkerPool,
        queue: Queue,
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
        self._queue = queue
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
        with self.lease(chosen.version):
            laid_out = await self._lay_out(question, chosen)
            async with self._charged(laid_out, course) as deltas:
                yield deltas
            if course.met_too_little:
                self._suspect(chosen.version)

    @contextmanager
    def lease(self, version: Version) -> Iterator[None]:
        """Hold a version: until the end it can be asked, whatever replaces it meanwhile."""
        self._ledger.lease(version)
        try:
            yield
        finally:
            self._ledger.release(version)

    @asynccontextmanager
    async def ask_of_text(self, question: Question, text: str, course: Course) -> AsyncIterator[AsyncIterator[Delta]]:
        """The same of a text that is no document: no KV is met or kept, and nobody else can meet it."""
        laid_out = await self._lay_out_text(question, text)
        async with self._charged(laid_out, course) as deltas:
            yield deltas

    async def prompt_tokens(self, question: Question, text: str) -> int:
        """How many tokens a text that is no document and a question about it take."""
        prefix = await asyncio.to_thread(prefix_of, self._reading.layout, self._reading.tokenizer, text)
        return prefix.document_tokens + len(await self._suffix(question))

    async def _lay_out(self, question: Question, chosen: Chosen) -> LaidOut:
        prefix = await self._prefixes.get(chosen.version)
        self._hosts.know(chosen.version, prefix.ids)
        return await self._behind(question, prefix, chosen.version, chosen.document)

    async def _lay_out_text(self, question: Question, text: str) -> LaidOut:
        prefix = await asyncio.to_thread(prefix_of, self._reading.layout, self._reading.tokenizer, text)
        ids = prefix.ids[: prefix.document_tokens]  # the filler is for what is kept
        version = Version(
            id=VersionId(uuid.uuid4().hex),
            digest=content_digest(text),
            fingerprint=self._reading.fingerprint,
            salt=Salt(secrets.token_hex(32)),
            document_tokens=len(ids),
            prefix_tokens=len(ids),
        )
        return await self._behind(question, self._prefixes.prepared(ids), version, None)

    async def _behind(self, question: Question, prefix: PreparedPrefix, version: Version, document: Document | None) -> LaidOut:
        suffix = await self._suffix(question)
        tokens = answer_tokens(
            prefix=version.prefix_tokens, suffix=len(suffix), context=self._reading.context_tokens, asked=question.answer_tokens
        )
        # Past the cache, a salt of its own meets no KV.
        salt = Salt(secrets.token_hex(32)) if question.bypass else version.salt
        return LaidOut(
            document=document,
            version=version,
            prefix=prefix,
            suffix=suffix,
            max_tokens=min(tokens, question.at_most or tokens),
            sampling=question.sampling,
            salt=salt,
            bypass=question.bypass,
        )

    async def _suffix(self, question: Question) -> list[int]:
        turns, system, layout, tokenizer = question.turns, question.system, self._reading.layout, self._reading.tokenizer
        if sum(len(turn["content"]) for turn in turns) + len(system) > LONG_CHARACTERS:
            await asyncio.to_thread(self._reading.check_messages, [system, *(turn["content"] for turn in turns)])
            return await asyncio.to_thread(suffix_ids, layout, tokenizer, turns, system)
        return suffix_ids(layout, tokenizer, turns, system)

    @asynccontextmanager
    async def _charged(self, laid_out: LaidOut, course: Course) -> AsyncIterator[AsyncIterator[Delta]]:
        """As `_deltas`, with the tokens reserved before and settled after. Raises LimitReached where they have no room."""
        hold = None
        if course.admission is not None:
            expected = len(laid_out.suffix) + (0 if self._is_held(laid_out) else laid_out.version.prefix_tokens)
            hold = await course.admission.reserve(expected, laid_out.max_tokens)
        try:
            async with self._deltas(laid_out, course) as deltas:
                yield deltas
        finally:
            if hold is not None:
                hold.settle(course.computed)

    def _is_held(self, laid_out: LaidOut) -> bool:
        """Whether the prefix is believed to be whole somewhere, and will not be computed."""
        if laid_out.bypass or laid_out.document is None:
            return False
        return any(holding.share >= 1 for holding in self._ledger.holdings(laid_out.version))

    @asynccontextmanager
    async def _deltas(self, laid_out: LaidOut, course: Course) -> AsyncIterator[AsyncIterator[Delta]]:
        avoid: frozenset[str] = frozenset()
        with self._queue.ticket(course.tenant) as ticket:
            worker = course.worker = await self._turn(laid_out, ticket)
            course.queued_s = ticket.waited_s
            while True:
                try:
                    async with AsyncExitStack() as answering:
                        deltas, first = await self._first(laid_out, course, worker, answering)
                        yield _followed(first, deltas, course, ticket)
                        return
                except (EngineUnavailable, EngineFailed) as error:
                    if isinstance(error, EngineUnavailable):
                        self._pool.failed(worker, str(error))
                    if course.first_token_s is not None or avoid or len(self._pool) < 2:
                        raise
                    avoid = frozenset({worker.name})
                    self._telemetry.retries.add(1)
                    log.info("question_retried", worker=worker.name, error=str(error))
                worker = course.worker = ticket.again(worker, avoid)

    async def _turn(self, laid_out: LaidOut, ticket: Ticket) -> Worker:
        """The worker, once it is the question's turn. While another question reads the version, it would hold a slot for nothing."""
        version = laid_out.version
        while True:
            worker = await ticket.turn(version, lambda worker: laid_out.prompt_tokens - self._believed(laid_out, worker))
            if laid_out.bypass or not self._cold.busy(version) or self._tier(laid_out, worker) is not Tier.NONE:
                return worker
            await ticket.aside(self._cold.over(version))

    async def _first(
        self, laid_out: LaidOut, course: Course, worker: Worker, answering: AsyncExitStack
    ) -> tuple[AsyncIterator[Delta], Delta]:
        """Send it and wait for the first delta; the rest of them, and that one. `answering` holds the answer open."""
        version = laid_out.version
        async with AsyncExitStack() as starting:
            course.tier = self._tier(laid_out, worker)
            if course.tier is Tier.NONE and not laid_out.bypass:
                await starting.enter_async_context(self._cold.turn(version))
                course.tier = self._tier(laid_out, worker)
            keep_tokens = version.prefix_tokens if await self._keeps(laid_out, worker, answering) else 0
            if course.tier is Tier.DISK:
                host = self._ledger.host_of(worker.name)
                await starting.enter_async_context(self._ram.restoring(version, laid_out.prefix.ids, host))
            course.gpu_tokens = (
                0 if laid_out.bypass else round(self._ledger.gpu_share(version, worker.name) * version.prefix_tokens)
            )
            course.prompt_tokens, course.believed_tokens = laid_out.prompt_tokens, self._believed(laid_out, worker)
            deltas = await answering.enter_async_context(worker.complete(laid_out.body(keep_tokens)))
            with self._pool.waiting(worker):
                first = await anext(deltas, None)
        if first is None:
            raise EngineFailed(f"Worker {worker.name} answered nothing.")
        course.first_token()
        return deltas, first

    async def _keeps(self, laid_out: LaidOut, worker: Worker, answering: AsyncExitStack) -> bool:
        """Whether what the question has stored may stay: not for a document that expired, nor where there is no room.

        The engine stores what the host lacks, be it read just now or on the GPU already.
        """
        version, host = laid_out.version, self._ledger.host_of(worker.name)
        if laid_out.bypass or laid_out.document is None or laid_out.document.expired(self._now()):
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

    def _believed(self, laid_out: LaidOut, worker: Worker) -> int:
        """How many of the prompt's tokens the worker won't have to compute, as far as can be known."""
        if laid_out.bypass or laid_out.document is None:
            return 0
        if self._tier(laid_out, worker) is Tier.UNKNOWN:
            return laid_out.version.prefix_tokens
        return round(self._ledger.share(laid_out.version, worker.name) * laid_out.version.prefix_tokens)

    def _tier(self, laid_out: LaidOut, worker: Worker) -> Tier:
        """Where the prefix will come from, as far as can be known."""
        if laid_out.bypass:
            return Tier.NONE
        tier = self._ledger.tier(laid_out.version, worker.name)
        server = self._hosts.get(self._ledger.host_of(worker.name))
        return Tier.UNKNOWN if tier is Tier.NONE and server is not None and not server.sees_disk else tier


async def _followed(first: Delta, rest: AsyncIterator[Delta], course: Course, ticket: Ticket) -> AsyncIterator[Delta]:
    """All of them, told to the course and charged to the tenant as they come."""
    delta = first
    while True:
        if course.follow(delta):
            ticket.generated()
        else:
            ticket.settle(course.usage)
        yield delta
        if (following := await anext(rest, None)) is None:
            return
        delta = following
