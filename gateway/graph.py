"""The object graph over the parts (`gateway/parts.py`): who is made of whom. The one place that constructs.

`gateway/app.py` gives it its doors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import structlog

from backends.extraction.extractor import Extractor
from backends.fingerprint import engine_fingerprint
from gateway.api.admin_tenants_api import TenantsOverview
from gateway.api.chat import ChatHandler
from gateway.api.documents_views import DocumentViews
from gateway.api.health import Health
from gateway.asking.asker import Asker
from gateway.asking.bookings import Bookings
from gateway.asking.cold import ColdQuestions
from gateway.asking.gathering import Gatherer
from gateway.asking.queue import Queue
from gateway.asking.second_look import SecondLook
from gateway.config import Config
from gateway.ingestion.describer import Describer
from gateway.ingestion.ingestion import Ingestion
from gateway.ingestion.reader import Reader
from gateway.ingestion.renewal import Renewal
from gateway.parts import Parts
from gateway.pool import WorkerPool
from gateway.shelf.catalog_file import CatalogWatcher
from gateway.shelf.charges import ReadingCharges
from gateway.shelf.classifier import Classifier
from gateway.shelf.documents import Shelf
from gateway.shelf.matchings import Matchings
from gateway.shelf.prefixes import PrefixCache
from gateway.shelf.reading import Reading
from gateway.shelf.tuning import Tuning
from gateway.shelf.volumes import Volumes
from gateway.tenants.audit import AuditLog
from gateway.tenants.authenticator import Authenticator
from gateway.tenants.counters import Counters
from gateway.tenants.keyring import Keyring
from gateway.tenants.limiter import Limiter
from gateway.tenants.limits_file import TenantLimits
from gateway.tenants.quotas import Quotas
from gateway.tenants.streams import Streams
from gateway.tenants.usage import UsageBooks
from gateway.tiers.disk_keeper import DiskKeeper
from gateway.tiers.hosts import Hosts
from gateway.tiers.ram_keeper import RamKeeper
from gateway.tiers.ram_quotas import RamQuotas
from gateway.tiers.speeds import Speeds
from gateway.tiers.uses import Uses
from gateway.upkeep.gauges import observe
from gateway.upkeep.housekeeper import Housekeeper
from gateway.upkeep.moves import Moves
from gateway.upkeep.prefetcher import Prefetcher
from gateway.upkeep.reaper import Reaper
from gateway.upkeep.scrubber import Scrubber
from gateway.upkeep.usage_pruner import UsagePruner
from observability.telemetry import Telemetry
from router.fairness import Turns
from router.policies import CHOICES
from router.prompts import derive
from router.residency import Ledger

log = structlog.get_logger("graph")


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What the handlers are given, and what runs beside them."""

    config: Config
    telemetry: Telemetry
    authenticator: Authenticator
    streams: Streams
    keyring: Keyring
    audit: AuditLog
    limiter: Limiter
    quotas: Quotas
    overview: TenantsOverview
    chat: ChatHandler
    shelf: Shelf
    volumes: Volumes
    extractor: Extractor
    classifier: Classifier
    second_look: SecondLook
    tuning: Tuning
    health: Health
    views: DocumentViews
    moves: Moves
    ledger: Ledger
    usage: UsageBooks
    running: Callable[[], AbstractAsyncContextManager[None]]
    """Loads the catalog, and runs what runs beside the requests."""


def build(config: Config, parts: Parts, *, now: Callable[[], float]) -> Graph:
    """Everything, over these parts, the store open. Raises LayoutError where the model's template can't be split."""
    layout = derive(parts.tokenizer, config.engine.chunk_tokens)
    fingerprint = engine_fingerprint(
        config.model,
        tokenizer_digest=parts.tokenizer.digest,
        layout_digest=layout.digest,
        versions=parts.versions,
        cache_path=config.data_path / "weights-digest.json",
    )
    reading = Reading(
        parts.tokenizer,
        layout,
        fingerprint,
        parts.secret,
        config.model.context_tokens,
        config.ingestion.answer_reserve_tokens,
        config.ingestion.max_volumes,
    )
    telemetry, engine = parts.telemetry, config.engine
    authenticator = Authenticator(parts.store, parts.secret, now=now)
    streams, audit = Streams(authenticator), AuditLog(parts.store, now=now)
    tenant_limits = TenantLimits(config.tenants)
    counters = Counters(parts.store, parts.shared_counts, now=now)
    limiter = Limiter(tenant_limits, counters, telemetry)
    ledger = Ledger(parts.hosts)
    ledger.weigh(parts.token_bytes)
    hosts = Hosts(parts.kv_servers, ledger, check_interval_s=engine.check_interval_s)
    pool = WorkerPool(parts.workers, ledger, at_once=engine.slots, check_interval_s=engine.check_interval_s)
    uses, speeds = Uses(parts.store, now=now), Speeds(parts.store, now=now)
    keeper = DiskKeeper(
        hosts, ledger, uses, reading, config.disk, telemetry, token_bytes=parts.token_bytes, limits=tenant_limits.of
    )
    matchings = Matchings(parts.store, now=now)
    classifier = Classifier(parts.store, parts.embedder, matchings, telemetry, config.routing, problem=parts.embedder_problem)
    charges = ReadingCharges()
    shelf = Shelf(parts.store, classifier, reading, keeper.check, charges, now=now)
    volumes = Volumes(shelf, parts.store, reading, keeper.check)
    extractor = Extractor(config.extraction)
    prefixes = PrefixCache(parts.store, config.model.name)
    ram_quotas = RamQuotas(shelf, ledger, tenant_limits.of)
    ram = RamKeeper(
        shelf,
        pool,
        hosts,
        ledger,
        ram_quotas,
        telemetry,
        policy_name=config.ram.policy,
        token_bytes=parts.token_bytes,
        now=now,
    )
    reader = Reader(
        shelf,
        pool,
        hosts,
        keeper,
        ram,
        prefixes,
        ledger,
        reading,
        speeds,
        telemetry,
        model=config.model.name,
        segment_target_s=config.ingestion.segment_target_s,
    )
    ingestion = Ingestion(shelf, pool, reader, charges, telemetry)
    describer = Describer(parts.store, shelf, pool, prefixes, ledger, reading, rest_s=engine.check_interval_s)
    renewal = Renewal(shelf, uses)
    reaper = Reaper(parts.store, shelf, ledger, prefixes, classifier, hosts)
    moves = Moves(
        shelf, reader, hosts, ram, prefixes, ledger, telemetry, workers=[worker.name for worker in parts.workers], now=now
    )
    housekeeper = Housekeeper(parts.store, shelf, hosts, keeper, moves, ledger, config.disk, now=now)
    catalog_watcher = CatalogWatcher(config.catalog, shelf, volumes, extractor, audit)
    cold = ColdQuestions(hosts, keeper)
    scrubber = Scrubber(
        shelf,
        pool,
        hosts,
        prefixes,
        reader,
        ledger,
        telemetry,
        bytes_per_s=config.disk.scrub_mib_per_s * 2**20,
        chunk_tokens=engine.chunk_tokens,
    )
    queue = Queue(pool, Turns(), telemetry, config.queue, weight_of=lambda tenant: tenant_limits.of(tenant).weight or 1.0)
    asker = Asker(shelf, pool, queue, hosts, cold, ram, prefixes, ledger, reading, telemetry, suspect=scrubber.suspect, now=now)
    prefetcher = Prefetcher(
        parts.store, shelf, pool, ledger, ram, ram_quotas, moves, telemetry, enabled=CHOICES[config.ram.policy].prefetch, now=now
    )
    usage = UsageBooks(parts.store, now=now)
    pruner = UsagePruner(parts.store, keep_days=config.usage.keep_days, now=now)
    bookings = Bookings(shelf, uses, prefetcher, usage, speeds, ttl_refresh=config.retention.ttl_refresh)
    gatherer = Gatherer(
        asker,
        bookings,
        telemetry,
        max_documents=config.gathering.max_documents,
        part_tokens=config.gathering.part_tokens,
        at_once=config.gathering.at_once,
        context_tokens=config.model.context_tokens,
    )
    second_look = SecondLook(shelf, pool, prefixes, ledger, reading, telemetry, config.routing)
    chat = ChatHandler(
        shelf,
        classifier,
        second_look,
        asker,
        gatherer,
        bookings,
        prefetcher,
        streams,
        telemetry,
        model=config.model.name,
        max_body_bytes=config.server.max_body_mib * 2**20,
        allow_cache_bypass=config.allow_cache_bypass,
    )
    observe(telemetry, shelf, pool, queue, hosts, housekeeper, ledger, budget_gib=config.disk.budget_gib)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        await shelf.load()
        await speeds.load()
        await uses.load((document.owner, document.id) for document in shelf.catalog)
        await asyncio.gather(pool.check(), hosts.check(), hosts.scan())
        await tenant_limits.apply()
        await counters.load()
        await catalog_watcher.apply()
        running = [
            *(part.watch() for part in (pool, hosts, catalog_watcher, tenant_limits)),
            *(part.run() for part in (ingestion, volumes, reaper, housekeeper, ram, prefetcher, renewal, scrubber, pruner)),
            *(part.run() for part in (uses, speeds, usage, authenticator, streams, counters)),
            *(observer(ledger) for observer in parts.observers),
            *([describer.run()] if config.ingestion.describe else []),
        ]
        tasks = [asyncio.ensure_future(_watched(task)) for task in running]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, moves.close(), cold.close(), counters.close(), return_exceptions=True)

    return Graph(
        config=config,
        telemetry=telemetry,
        authenticator=authenticator,
        streams=streams,
        keyring=Keyring(
            parts.store, audit, parts.secret, environment=config.keys.environment, now=now, changed=authenticator.forget
        ),
        audit=audit,
        limiter=limiter,
        quotas=Quotas(tenant_limits, telemetry),
        overview=TenantsOverview(parts.store, tenant_limits, counters, shelf, ledger),
        chat=chat,
        shelf=shelf,
        volumes=volumes,
        extractor=extractor,
        classifier=classifier,
        second_look=second_look,
        tuning=Tuning(classifier, matchings, config.routing),
        health=Health(pool, hosts, parts.store, classifier, catalog_watcher, tenant_limits, counters),
        views=DocumentViews(shelf, ledger, uses),
        moves=moves,
        ledger=ledger,
        usage=usage,
        running=running,
    )


async def _watched(task: Awaitable[None]) -> None:
    """A background task that ends by a bug is said at once; the gateway goes on with what still works."""
    try:
        await task
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("background_task_failed")
