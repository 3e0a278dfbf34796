"""Moves of documents' KV between tiers, as jobs: warming and evicting, asked for by a tenant or planned by the gateway.

A job is a move under way, kept for a while after it ended. Readings of new versions are jobs of their own
(`gateway/ingestion/ingestion.py`); both are shown by `gateway/api/jobs_api.py`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from enum import StrEnum

import msgspec
import structlog
from msgspec.structs import replace

from gateway.ingestion.reader import Reader
from gateway.shelf.documents import Shelf
from gateway.shelf.prefixes import PrefixCache
from gateway.tiers.hosts import Hosts
from gateway.tiers.ram_keeper import RamKeeper
from observability.telemetry import KIND, OUTCOME, TIER, Telemetry
from router.documents import Document, DocumentId, Owner, Version, VersionState
from router.errors import Conflict, EngineFailed, InvalidRequest, KvshelfError, NotFound
from router.residency import Ledger, Tier

log = structlog.get_logger("moves")

REMEMBERED = 1000
"""Jobs that ended and are still shown."""

UNUSED_WITHIN_S = 60.0
"""How long an eviction waits for the questions that use the document."""
POLL_S = 0.05

ASKED_FOR = "asked for"


class MoveKind(StrEnum):
    WARM = "warm"
    EVICT = "evict"


class MoveState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """One move of one document's KV. `where`: a worker's name for the GPU tier, a host's for the others."""

    id: str
    kind: MoveKind
    owner: Owner
    document: DocumentId
    tier: str
    where: str
    why: str
    state: MoveState = MoveState.RUNNING
    error: str | None = None
    planned: bool = False
    """By the gateway itself, for reasons that may lie with another tenant: not shown to any."""
    created_at: float = 0.0
    ended_at: float | None = None


class Moves:
    def __init__(
        self,
        shelf: Shelf,
        reader: Reader,
        hosts: Hosts,
        ram: RamKeeper,
        prefixes: PrefixCache,
        ledger: Ledger,
        telemetry: Telemetry,
        *,
        workers: Iterable[str],
        now: Callable[[], float],
    ) -> None:
        self._shelf = shelf
        self._reader = reader
        self._hosts = hosts
        self._ram = ram
        self._prefixes = prefixes
        self._ledger = ledger
        self._telemetry = telemetry
        self._workers = tuple(workers)
        self._now = now
        self._moves: OrderedDict[str, Move] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.change = asyncio.Event()
        """Set when the next move begins or ends, as `Shelf.change` is."""

    def __repr__(self) -> str:
        return f"<Moves {len(self._tasks)} under way>"

    def __iter__(self) -> Iterator[Move]:
        return iter(tuple(self._moves.values()))

    def get(self, move_id: str) -> Move | None:
        return self._moves.get(move_id)

    def warm(
        self, document: Document, tier: Tier, where: str | None = None, *, why: str = ASKED_FOR, planned: bool = False
    ) -> Move:
        """Bring the document's KV to RAM, or onto a worker's GPU tier; what is on no disk is read again. Or back to disk.

        `planned`: for a guess, for which only a pinned document is read again.
        Raises Conflict where the document can't answer or has expired, InvalidRequest for another tier or an unknown place.
        """
        version = self._answering(document)
        if document.expired(self._now()):
            raise Conflict(f"Document {document.id!r} has expired: give it a new `ttl_s` or `expire_at` first.", param="document")
        if tier is Tier.GPU:
            worker = self._place(where, self._workers, "worker")
            return self._start(
                self._new(MoveKind.WARM, document, tier, worker, why, planned), lambda: self._onto_gpu(version, worker)
            )
        if tier not in (Tier.RAM, Tier.DISK):
            raise InvalidRequest("A document is warmed to the tier `ram` or `gpu`.", param="tier")
        reads = document.pinned or not planned
        host = self._place(where, self._ledger.hosts, "host") if where or len(self._hosts) < 2 else self._holder(version)
        return self._start(
            self._new(MoveKind.WARM, document, tier, host, why, planned),
            lambda: self._into_ram(version, host, reads=reads) if tier is Tier.RAM else self._onto_disk(version, host),
        )

    def evict(self, document: Document, tier: Tier | None, *, why: str = ASKED_FOR) -> Move:
        """Remove the document's KV from RAM, from disk, or from both (None), on every host.

        Raises Conflict for a pinned document, InvalidRequest for the GPU tier.
        """
        if tier not in (Tier.RAM, Tier.DISK, None):
            raise InvalidRequest(
                "KV leaves a worker's GPU tier by itself, the least recently used first: vLLM drops no single document. "
                "Use the tier `ram`, `disk` or `all`.",
                param="tier",
            )
        if document.pinned:
            raise Conflict(f"Document {document.id!r} is pinned: unpin it first.", param="document")
        ram, disk = tier in (Tier.RAM, None), tier in (Tier.DISK, None)
        name = tier.value if tier is not None else "all"
        return self._start(self._new(MoveKind.EVICT, document, name, "", why), lambda: self._out(document, ram=ram, disk=disk))

    def of_volumes(self, document: Document, each: Sequence[Callable[[], Move]]) -> Move:
        """The same move of each of a document's volumes, one after another, as one. Raises as the first does."""
        first = each[0]()
        move = self._new(first.kind, document, first.tier, first.where, first.why)
        return self._start(move, lambda: self._one_by_one((lambda: first, *each[1:])))

    async def settled(self, move: Move) -> Move:
        """The move once it ended."""
        task = self._tasks.get(move.id)
        if task is not None:
            await asyncio.wait((task,))
        return self._moves.get(move.id, move)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- inside

    def _new(self, kind: MoveKind, document: Document, tier: str, where: str, why: str, planned: bool = False) -> Move:
        return Move(
            id=uuid.uuid4().hex,
            kind=kind,
            owner=document.owner,
            document=document.id,
            tier=str(tier),
            where=where,
            why=why,
            planned=planned,
            created_at=self._now(),
        )

    def _start(self, move: Move, act: Callable[[], Awaitable[None]]) -> Move:
        """Begin the move; the same one that is under way already is that one, but a planned one is nobody's who asks for it."""
        for move_id in self._tasks:
            running = self._moves[move_id]
            if running.planned <= move.planned and all(
                getattr(running, name) == getattr(move, name) for name in ("kind", "owner", "document", "tier", "where")
            ):
                return running
        self._moves[move.id] = move
        while len(self._moves) > REMEMBERED and next(iter(self._moves)) not in self._tasks:
            self._moves.popitem(last=False)
        task = self._tasks[move.id] = asyncio.create_task(self._run(move, act))
        task.add_done_callback(lambda _: self._tasks.pop(move.id, None))
        self._announce()
        return move

    async def _one_by_one(self, each: Sequence[Callable[[], Move]]) -> None:
        for start in each:
            if (error := (await self.settled(start())).error) is not None:
                raise EngineFailed(error)

    def _announce(self) -> None:
        self.change.set()
        self.change = asyncio.Event()

    async def _run(self, move: Move, act: Callable[[], Awaitable[None]]) -> None:
        error = None
        try:
            await act()
        except (KvshelfError, OSError) as failure:
            error = str(failure) or type(failure).__name__
        except asyncio.CancelledError:
            error = "the gateway ended"
            raise
        except Exception:
            error = "something failed inside the gateway; its log says what"
            log.exception("move_crashed", kind=move.kind.value, document=move.document)
        finally:
            state = MoveState.DONE if error is None else MoveState.FAILED
            self._moves[move.id] = replace(move, state=state, error=error, ended_at=self._now())
            self._announce()
            self._telemetry.moves.add(1, {KIND: move.kind.value, TIER: move.tier, OUTCOME: state.value})
            log.info(
                "moved", kind=move.kind.value, document=move.document, tier=move.tier, where=move.where, why=move.why, error=error
            )

    async def _into_ram(self, version: Version, host: str, *, reads: bool) -> None:
        self._ledger.lease(version)
        try:
            ids = (await self._prefixes.get(version)).ids
            if self._hosts.get(host) is None:
                raise NotFound("There is no KV server, and so no RAM tier.")
            async with self._ram.room(version, host):
                is_there = await self._hosts.prefetch(version, ids, host)
            if not is_there:
                if not reads:
                    raise EngineFailed("Not all of it could be restored from disk.")
                # Reading it brings it to RAM as well.
                await self._reader.read(version, host=host)
        finally:
            self._ledger.release(version)

    async def _onto_disk(self, version: Version, host: str) -> None:
        """Read it again. What RAM alone has is dropped first: the KV server writes a chunk only as it comes to RAM."""
        self._ledger.lease(version)
        try:
            ids = (await self._prefixes.get(version)).ids
            await self._hosts.look(version, ids)
            if self._ledger.disk_share(version, host) >= 1:
                return
            on_disk = set(self._ledger.disk(host).keys(version.salt))
            missing = [key for key in self._ledger.keys(version.salt) if key not in on_disk]
            await self._hosts.delete(version.salt, missing, disk=False, host=host)
            await self._reader.read(version, host=host)
        finally:
            self._ledger.release(version)

    async def _onto_gpu(self, version: Version, worker: str) -> None:
        host = self._ledger.host_of(worker)
        if max(self._ledger.ram_share(version, host), self._ledger.disk_share(version, host)) >= 1:
            await self._reader.touch(version, worker)
        else:
            await self._reader.read(version, worker=worker)

    async def _out(self, document: Document, *, ram: bool, disk: bool) -> None:
        for version in document.versions:
            if version is document.incoming and version.state is not VersionState.FAILED:
                continue  # is being read
            keys = self._hosts.know(version, (await self._prefixes.get(version)).ids)
            await self._unused(document, version)
            await self._hosts.delete(version.salt, keys, ram=ram, disk=disk)

    async def _unused(self, document: Document, version: Version) -> None:
        """Return once no question uses the version: it would store again what is deleted before its worker looks for it."""
        until = time.monotonic() + UNUSED_WITHIN_S
        while self._ledger.in_use(version.salt):
            if time.monotonic() > until:
                raise Conflict(f"Document {document.id!r} is asked all the time.", param="document")
            await asyncio.sleep(POLL_S)

    def _answering(self, document: Document) -> Version:
        if document.current is None or self._shelf.is_stale(document):
            raise Conflict(f"Document {document.id!r} can't answer yet: it is being read or could not be.", param="document")
        return document.current

    def _place(self, where: str | None, known: Iterable[str], what: str) -> str:
        names = sorted(known)
        if where is None and len(names) == 1:
            return names[0]
        if where not in names:
            raise InvalidRequest(f"Name a {what}: {', '.join(names) or 'there is none'}.", param=what)
        return where

    def _holder(self, version: Version) -> str:
        """The host that has most of the version on its disk."""
        return max(self._ledger.hosts, key=lambda host: (self._ledger.disk_share(version, host), host))
