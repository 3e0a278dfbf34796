"""The one place that constructs: the object graph over the parts (`gateway/parts.py`), and the application around it.

The lifespan starts and ends what runs beside the requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from litestar import Litestar, asgi
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.types import Receive, Scope, Send

from backends.fingerprint import engine_fingerprint
from gateway.api import routing_api, system_api
from gateway.api.asgi import request_id
from gateway.api.chat import ChatHandler
from gateway.api.documents_api import DocumentsController
from gateway.api.documents_views import DocumentViews
from gateway.api.health import Health
from gateway.api.jobs_api import JobsController
from gateway.api.tiers_api import TiersController
from gateway.asking.asker import Asker
from gateway.asking.bookings import Bookings
from gateway.asking.cold import ColdQuestions
from gateway.asking.gathering import Gatherer
from gateway.asking.second_look import SecondLook
from gateway.auth import Authenticator, KeyMiddleware
from gateway.config import Config
from gateway.errors import HANDLERS
from gateway.ingestion.describer import Describer
from gateway.ingestion.ingestion import Ingestion
from gateway.ingestion.reader import Reader
from gateway.ingestion.renewal import Renewal
from gateway.parts import Parts
from gateway.pool import WorkerPool
from gateway.server import CLOSE_STREAMS
from gateway.shelf.catalog_file import CatalogWatcher
from gateway.shelf.classifier import Classifier
from gateway.shelf.documents import Shelf
from gateway.shelf.matchings import Matchings
from gateway.shelf.prefixes import PrefixCache
from gateway.shelf.reading import Reading
from gateway.shelf.tuning import Tuning
from gateway.shelf.volumes import Volumes
from gateway.tiers.disk_keeper import DiskKeeper
from gateway.tiers.hosts import Hosts
from gateway.tiers.ram_keeper import RamKeeper
from gateway.tiers.uses import Uses
from gateway.upkeep.gauges import observe
from gateway.upkeep.housekeeper import Housekeeper
from gateway.upkeep.moves import Moves
from gateway.upkeep.prefetcher import Prefetcher
from gateway.upkeep.reaper import Reaper
from gateway.upkeep.scrubber import Scrubber
from router.policies import CHOICES
from router.prompts import derive
from router.residency import Ledger

log = structlog.get_logger("app")


def create_app(config: Config, parts: Parts, *, now: Callable[[], float] = time.time) -> Litestar:
    """The application over these parts, the store open. Raises LayoutError where the model's template can't be split."""
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
    ledger = Ledger(parts.hosts)
    ledger.weigh(parts.token_bytes)
    hosts = Hosts(parts.kv_servers, ledger, check_interval_s=engine.check_interval_s)
    pool = WorkerPool(parts.workers, ledger, capacity=engine.capacity, check_interval_s=engine.check_interval_s)
    uses = Uses(parts.store, now=now)
    keeper = DiskKeeper(hosts, ledger, uses, reading, config.disk, telemetry, token_bytes=parts.token_bytes)
    matchings = Matchings(parts.store, now=now)
    classifier = Classifier(parts.store, parts.embedder, matchings, telemetry, config.routing, problem=parts.embedder_problem)
    shelf = Shelf(parts.store, classifier, reading, keeper.check, now=now)
    volumes = Volumes(shelf, parts.store, reading, keeper.check)
    prefixes = PrefixCache(parts.store, config.model.name)
    ram = RamKeeper(
        shelf,
        pool,
        hosts,
        ledger,
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
        telemetry,
        model=config.model.name,
        segment_target_s=config.ingestion.segment_target_s,
    )
    ingestion = Ingestion(shelf, pool, reader, telemetry)
    describer = Describer(parts.store, shelf, pool, prefixes, ledger, reading, rest_s=engine.check_interval_s)
    renewal = Renewal(shelf, uses)
    reaper = Reaper(parts.store, shelf, ledger, prefixes, classifier, hosts)
    moves = Moves(
        shelf, reader, hosts, ram, prefixes, ledger, telemetry, workers=[worker.name for worker in parts.workers], now=now
    )
    housekeeper = Housekeeper(parts.store, shelf, hosts, keeper, moves, ledger, config.disk, now=now)
    catalog_watcher = CatalogWatcher(config.catalog, shelf, volumes)
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
    asker = Asker(shelf, pool, hosts, cold, ram, prefixes, ledger, reading, telemetry, suspect=scrubber.suspect, now=now)
    prefetcher = Prefetcher(
        parts.store, shelf, pool, ledger, ram, moves, telemetry, enabled=CHOICES[config.ram.policy].prefetch, now=now
    )
    bookings = Bookings(shelf, uses, prefetcher, ttl_refresh=config.retention.ttl_refresh)
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
        telemetry,
        model=config.model.name,
        max_body_bytes=config.server.max_body_mib * 2**20,
        allow_cache_bypass=config.allow_cache_bypass,
    )
    observe(telemetry, shelf, pool, hosts, housekeeper, ledger, budget_gib=config.disk.budget_gib)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await shelf.load()
        await uses.load((document.owner, document.id) for document in shelf.catalog)
        await asyncio.gather(pool.check(), hosts.check(), hosts.scan())
        await catalog_watcher.apply()
        running = [
            *(part.watch() for part in (pool, hosts, catalog_watcher)),
            *(part.run() for part in (ingestion, volumes, reaper, housekeeper, ram, prefetcher, renewal, scrubber, uses)),
            *(observer(ledger) for observer in parts.observers),
            *([describer.run()] if config.ingestion.describe else []),
        ]
        tasks = [asyncio.ensure_future(_watched(task)) for task in running]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, moves.close(), cold.close(), return_exceptions=True)

    @asgi("/v1/chat/completions", copy_scope=False)
    async def chat_completions(scope: Scope, receive: Receive, send: Send) -> None:
        await chat(scope, receive, send)

    dependencies: dict[str, Any] = {
        "config": config,
        "telemetry": telemetry,
        "shelf": shelf,
        "volumes": volumes,
        "classifier": classifier,
        "second_look": second_look,
        "tuning": Tuning(classifier, matchings, config.routing),
        "health": Health(pool, hosts, parts.store, classifier, catalog_watcher),
        "views": DocumentViews(shelf, ledger, uses),
        "moves": moves,
    }
    return Litestar(
        route_handlers=[
            chat_completions,
            DocumentsController,
            JobsController,
            TiersController,
            system_api.models,
            routing_api.route,
            routing_api.fit,
            routing_api.reset,
            system_api.live,
            system_api.ready,
            system_api.metrics,
        ],
        dependencies={name: Provide(_giving(value), sync_to_thread=False) for name, value in dependencies.items()},
        middleware=[request_id, DefineMiddleware(KeyMiddleware, authenticator=Authenticator(parts.store, parts.secret))],
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        openapi_config=OpenAPIConfig(title="kvshelf", version="0.1.0", path="/schema"),
        request_max_body_size=config.server.max_body_mib * 2**20,
        logging_config=None,
        state=State({CLOSE_STREAMS: shelf.close}),
    )


async def _watched(task: Awaitable[None]) -> None:
    """A background task that ends by a bug is said at once; the gateway goes on with what still works."""
    try:
        await task
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("background_task_failed")


def _giving(value: Any) -> Callable[[], Any]:
    return lambda: value
