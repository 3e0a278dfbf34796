"""Brings documents from disk to RAM before they are asked. What, and why, is planned by `router/promotions.py`.

Guesses come from pins, from what follows what and when (`router/prediction.py`), and from the classifier's leading
candidates while a question is still being decided. Below live traffic, and at most a little at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator

import structlog

from backends.base import Store
from gateway.pool import WorkerPool
from gateway.shelf.documents import Shelf
from gateway.tiers.ram_keeper import RamKeeper
from gateway.tiers.ram_quotas import RamQuotas
from gateway.upkeep.moves import Moves, MoveState
from observability.telemetry import HOST, OUTCOME, Telemetry
from router.candidates import Candidate, Promotion, Snapshot
from router.chunk_tier import ChunkTier
from router.documents import Document, DocumentId, Key, Owner, Salt, TenantId, Version, VersionState
from router.errors import KvshelfError, StoreUnavailable
from router.prediction import Guess, Predictor
from router.promotions import Promotions
from router.residency import Ledger, Tier

log = structlog.get_logger("prefetcher")

STATE = "prediction"
LOOK_EVERY_S = 5.0
"""How often it is planned where nothing happens."""
PLANNING_SHARE = 0.05
"""Of the event loop's time: however many questions come, planning takes no more."""
SAVE_EVERY_S = 60.0
RETRY_S = 30.0
"""After a document could not be brought, also a pinned one."""
LIKELIEST = 16
"""Guesses that are considered at a time."""
HINTED_S = 30.0
"""How long the classifier's candidates count as likely."""


class Prefetcher:
    def __init__(
        self,
        store: Store,
        shelf: Shelf,
        pool: WorkerPool,
        ledger: Ledger,
        ram: RamKeeper,
        quotas: RamQuotas,
        moves: Moves,
        telemetry: Telemetry,
        *,
        enabled: bool,
        now: Callable[[], float],
    ) -> None:
        """`enabled` False: only pinned documents are brought."""
        self._store = store
        self._shelf = shelf
        self._pool = pool
        self._ledger = ledger
        self._ram = ram
        self._quotas = quotas
        self._moves = moves
        self._telemetry = telemetry
        self._enabled = enabled
        self._now = now
        self._predictor = Predictor()
        self._loaded, self._unsaved = False, False
        self._held: dict[str, tuple[ChunkTier, frozenset[str]]] = {}
        """What each host's RAM held when it was planned last; another tier is that of a server that was lost."""
        self._hints: dict[Key, tuple[float, float]] = {}
        """Probability, and until when it holds."""
        self._failed: dict[tuple[str, str], float] = {}
        """Until when each (host, salt) is not tried again."""
        self._met: set[tuple[str, str]] = set()
        """What was asked while it was on its way: (host, salt)."""
        self._asked_last: TenantId | None = None
        self._wake = asyncio.Event()
        self._moving: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Prefetcher {self._ram.promotions}>"

    def asked(self, tenant: TenantId, document: Document, version: Version) -> None:
        """A question about this document came: what follows it may be wanted soon."""
        self._predictor.asked(tenant, _name(document), self._now())
        self._unsaved = True
        self._ram.used(version)
        self._asked_last = tenant
        for host, promotions in self._ram.promotions.items():
            if promotions.in_flight(version.salt):
                self._met.add((host, version.salt))
            self._note_used(host, version.salt)
        self._wake.set()

    def hint(self, documents: Iterable[tuple[Document, float]]) -> None:
        """A question is about one of these, each with a probability: which one is not decided yet."""
        if not self._enabled:
            return
        until = self._now() + HINTED_S
        for document, probability in documents:
            self._hints[document.owner, document.id] = (probability, until)
        self._wake.set()

    async def run(self) -> None:
        """Plan after every question, and now and then, until cancelled."""
        await self._load()
        saved_at = self._now()
        try:
            while True:
                self._wake.clear()
                started = time.perf_counter()
                for host in self._ledger.hosts:
                    self._plan(host)
                await asyncio.sleep((time.perf_counter() - started) / PLANNING_SHARE)
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                if self._now() - saved_at >= SAVE_EVERY_S:
                    saved_at = self._now()
                    await self._save()
        finally:
            for task in self._moving:
                task.cancel()
            await asyncio.gather(*self._moving, return_exceptions=True)
            await self._save()

    # --- inside

    def _plan(self, host: str) -> None:
        order = self._ram.policy(host)
        if order is None:
            return
        promotions = self._ram.promotions[host]
        now, tier = self._now(), self._ledger.ram(host)
        self._note_left(host, promotions, tier, now)
        self._failed = {key: until for key, until in self._failed.items() if until > now}
        wanted = {candidate.key: (document, candidate) for document, candidate in self._candidates(host)}
        owners = {document.owner for document, _ in wanted.values()}
        snapshot: Snapshot[str] = Snapshot(
            candidates=tuple(candidate for _, candidate in wanted.values()),
            held={str(salt): size_bytes for salt, size_bytes in tier.salts.items()},
            used_bytes=tier.total_bytes,
            capacity_bytes=self._ram.target_bytes(host),
            exempt=self._ram.exempt(),
            waiting=self._pool.pressed,
            shares={str(owner): share for owner, share in self._quotas.shares(host, owners).items()},
        )
        for promotion in promotions.plan(snapshot, order, now):
            promotions.started(promotion, now)
            document, _ = wanted[promotion.key]
            task = asyncio.create_task(self._promote(host, document, promotion, promotions))
            self._moving.add(task)
            task.add_done_callback(self._moving.discard)

    async def _promote(self, host: str, document: Document, promotion: Promotion[str], promotions: Promotions[str]) -> None:
        done = False
        try:
            for salt in promotion.evict:
                await self._ram.evict(host, Salt(salt))
            move = await self._moves.settled(self._moves.warm(document, Tier.RAM, host, why=promotion.why, planned=True))
            done = move.state is MoveState.DONE
            log.info("prefetched", document=document.id, host=host, why=promotion.why, done=done, size_bytes=promotion.size_bytes)
        except KvshelfError as error:
            log.info("not_prefetched", document=document.id, host=host, why=promotion.why, error=str(error))
        finally:
            if done:
                promotions.finished(promotion.key, self._now())
                # So that it is noticed where it leaves before the next plan.
                tier, held = self._held.get(host, (self._ledger.ram(host), frozenset()))
                self._held[host] = tier, held | {promotion.key}
                self._telemetry.prefetched_bytes.add(promotion.size_bytes, {HOST: host})
                if (host, promotion.key) in self._met:
                    self._note_used(host, promotion.key)
            else:
                promotions.failed(promotion.key, self._now())
                self._failed[host, promotion.key] = self._now() + RETRY_S
            self._met.discard((host, promotion.key))

    def _note_left(self, host: str, promotions: Promotions[str], tier: ChunkTier, now: float) -> None:
        """What is in RAM no more. What was taken out for others is known (`RamKeeper.evict`)."""
        before, held = self._held.get(host, (tier, frozenset()))
        here = frozenset(tier.salts)
        for salt in held - here:
            if before is not tier:
                promotions.forget(salt)
            elif promotions.left(salt, now):
                self._telemetry.prefetches.add(1, {OUTCOME: "in_vain", HOST: host})
        self._held[host] = tier, here

    def _note_used(self, host: str, salt: str) -> None:
        if self._ram.promotions[host].used(salt):
            self._telemetry.prefetches.add(1, {OUTCOME: "used", HOST: host})

    def _candidates(self, host: str) -> Iterator[tuple[Document, Candidate[str]]]:
        """Documents that may be wanted, lie whole on the host's disk and not in its RAM; each with the best reason."""
        found: dict[str, tuple[Document, Candidate[str]]] = {}
        for document, guess in self._guesses(host):
            version = document.current
            if version is None or (host, version.salt) in self._failed or not self._fits(document, version, host):
                continue
            known = found.get(version.salt)
            if known is not None and known[1].probability >= guess.probability:
                continue
            found[version.salt] = (
                document,
                Candidate(
                    version.salt,
                    self._ledger.disk(host).size_bytes(version.salt),
                    self._ram.restore_s(version, host),
                    guess.probability,
                    guess.why,
                    document.pinned,
                    guess.within_s,
                    guess.kind,
                    document.owner,
                ),
            )
        yield from found.values()

    def _guesses(self, host: str) -> Iterator[tuple[Document, Guess]]:
        now, catalog = self._now(), self._shelf.catalog
        for document in catalog.pinned:
            yield document, Guess(_name(document), 1.0, "it is pinned", kind="pin")
        if not self._enabled:
            return
        for key, (probability, until) in tuple(self._hints.items()):
            hinted = catalog.get(*key)
            if until < now or hinted is None:
                del self._hints[key]
            else:
                yield hinted, Guess(_name(hinted), probability, "a question may be about it", HINTED_S, "question")
        here = {_name(found[0]) for salt in self._ledger.ram(host).salts if (found := catalog.of_salt(salt)) is not None}
        for guess in self._predictor.likely(self._asked_last, now, LIKELIEST, here):
            guessed = catalog.get(*_key(guess.key))
            if guessed is None:
                self._predictor.forget(guess.key)
            else:
                yield guessed, guess

    def _fits(self, document: Document, version: Version, host: str) -> bool:
        usable = version.state is VersionState.READY and not self._shelf.is_stale(document) and not document.expired(self._now())
        return usable and self._ledger.disk_share(version, host) >= 1 and self._ledger.ram_share(version, host) < 1

    async def _load(self) -> None:
        """Take up what an earlier run learned. Until that could be read nothing is put in its place."""
        try:
            kept = await self._store.state(STATE)
            self._loaded = True
            if kept:
                self._predictor = Predictor.from_bytes(kept)
        except StoreUnavailable as error:
            log.warning("prediction_not_loaded", error=str(error), consequence="it is tried again")
        except ValueError as error:
            log.warning("prediction_unreadable", error=str(error), consequence="it is learned anew")

    async def _save(self) -> None:
        if not self._loaded:
            await self._load()
        elif self._unsaved:
            self._unsaved, saved = False, False
            try:
                await self._store.put_state(STATE, self._predictor.to_bytes(), self._now())
                saved = True
            except StoreUnavailable as error:
                log.warning("prediction_not_saved", error=str(error))
            finally:
                self._unsaved = self._unsaved or not saved  # also where it is cut off, as at the end


def _name(document: Document) -> str:
    return f"{document.owner}/{document.id}"


def _key(name: str) -> Key:
    owner, _, document_id = name.partition("/")
    return Owner(owner), DocumentId(document_id)
