"""The one place that constructs: the parts from the configuration, the object graph from the parts, the app around it.

`open_parts` makes what touches the world; tests hand `create_app` fakes instead. The lifespan starts and ends what
runs beside the requests.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import structlog
from litestar import Litestar, asgi
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp, Receive, Scope, Send

from backends.base import Embedder, KVServer, Store, Worker
from backends.embedding import EmbedderUnavailable, SentenceEmbedder
from backends.fingerprint import engine_fingerprint
from backends.kv_events import KVEventListener
from backends.lmcache import LMCacheServer
from backends.local.commands import absolute
from backends.local.stack import LocalStack
from backends.store.sql_store import SqlStore
from backends.tokenizer import ChatTokenizer
from backends.tokenizer import load as load_tokenizer
from backends.vllm import VllmWorker
from gateway import system_api
from gateway.auth import Authenticator, KeyMiddleware
from gateway.catalog_file import CatalogWatcher
from gateway.chat import ChatHandler
from gateway.classifier import Classifier
from gateway.config import Config, database_url, server_secret
from gateway.documents import Reading, Shelf
from gateway.documents_api import DocumentsController, JobsController
from gateway.errors import HANDLERS
from gateway.health import Health
from gateway.ingestion import Ingestion
from gateway.pool import WorkerPool
from gateway.prefixes import PrefixCache
from gateway.reaper import Reaper
from observability import telemetry as names
from observability.telemetry import Telemetry
from router.prompts import derive
from router.residency import Ledger

log = structlog.get_logger("app")


class Parts:
    """What the gateway is made of that touches the world. Fakes in tests."""

    def __init__(
        self,
        *,
        store: Store,
        workers: tuple[Worker, ...],
        kv_server: KVServer | None,
        embedder: Embedder | None,
        tokenizer: ChatTokenizer,
        versions: Mapping[str, str],
        secret: bytes,
        telemetry: Telemetry,
        kv_events: str | None = None,
    ) -> None:
        """`versions`: the engine's, part of its fingerprint. `kv_events`: where to listen for what workers hold."""
        self.store = store
        self.workers = workers
        self.kv_server = kv_server
        self.embedder = embedder
        self.tokenizer = tokenizer
        self.versions = versions
        self.secret = secret
        self.telemetry = telemetry
        self.kv_events = kv_events


@asynccontextmanager
async def open_parts(config: Config, stack: LocalStack | None = None) -> AsyncIterator[Parts]:
    """The real parts. `stack` is the engine on this machine, where the configuration has one.

    Raises ConfigError, LayoutError or StoreUnavailable that says what to mend.
    """
    secret = server_secret(config)
    tokenizer = load_tokenizer(config.model.path)
    async with AsyncExitStack() as cleanup:
        session = await cleanup.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        )
        addresses = stack.workers if stack is not None else [(worker.name, worker.url) for worker in config.engine.workers]
        workers = tuple(VllmWorker(name, url, session, stall_timeout_s=config.engine.stall_timeout_s) for name, url in addresses)
        telemetry = Telemetry(otlp_endpoint=config.telemetry.otlp_endpoint)
        cleanup.callback(telemetry.close)
        store = SqlStore(database_url(config))
        await store.open()
        cleanup.push_async_callback(store.close)
        yield Parts(
            store=store,
            workers=workers,
            kv_server=_kv_server(config, stack, session),
            embedder=await _embedder(config, cleanup),
            tokenizer=tokenizer,
            versions=stack.versions() if stack is not None else {},
            secret=secret,
            telemetry=telemetry,
            kv_events=f"tcp://127.0.0.1:{config.engine.local.kv_events_port}" if config.engine.local else config.engine.kv_events,
        )


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
        parts.tokenizer, layout, fingerprint, parts.secret, config.model.context_tokens, config.ingestion.answer_reserve_tokens
    )
    ledger = Ledger()
    engine = config.engine
    pool = WorkerPool(
        parts.workers, ledger, capacity=engine.capacity, kv_server=parts.kv_server, check_interval_s=engine.check_interval_s
    )
    classifier = Classifier(
        parts.store, parts.embedder, parts.telemetry, min_score=config.routing.min_score, margin=config.routing.margin
    )
    shelf = Shelf(parts.store, classifier, reading, now=now)
    prefixes = PrefixCache(parts.store, config.model.name)
    ingestion = Ingestion(
        shelf,
        pool,
        prefixes,
        parts.kv_server,
        ledger,
        reading,
        parts.telemetry,
        model=config.model.name,
        segment_target_s=config.ingestion.segment_target_s,
    )
    reaper = Reaper(parts.store, shelf, ledger, prefixes, classifier, parts.kv_server)
    catalog_watcher = CatalogWatcher(config.catalog, shelf)
    chat = ChatHandler(
        shelf,
        classifier,
        pool,
        prefixes,
        ledger,
        parts.kv_server,
        reading,
        parts.telemetry,
        model=config.model.name,
        max_body_bytes=config.server.max_body_mib * 2**20,
        allow_cache_bypass=config.allow_cache_bypass,
    )
    _observe(parts.telemetry, shelf, pool)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await shelf.load()
        await pool.check()
        await catalog_watcher.apply()
        running: list[Awaitable[None]] = [pool.watch(), ingestion.run(), reaper.run(), catalog_watcher.watch()]
        if parts.kv_events is not None:
            running.append(KVEventListener(parts.kv_events, ledger).run())
        tasks = [asyncio.ensure_future(_watched(task)) for task in running]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asgi("/v1/chat/completions", copy_scope=False)
    async def chat_completions(scope: Scope, receive: Receive, send: Send) -> None:
        await chat(scope, receive, send)

    dependencies: dict[str, Any] = {
        "config": config,
        "telemetry": parts.telemetry,
        "shelf": shelf,
        "classifier": classifier,
        "health": Health(pool, parts.store, classifier, catalog_watcher),
    }
    return Litestar(
        route_handlers=[
            chat_completions,
            DocumentsController,
            JobsController,
            system_api.models,
            system_api.route,
            system_api.live,
            system_api.ready,
            system_api.metrics,
        ],
        dependencies={name: Provide(_giving(value), sync_to_thread=False) for name, value in dependencies.items()},
        middleware=[_request_id, DefineMiddleware(KeyMiddleware, authenticator=Authenticator(parts.store, parts.secret))],
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        openapi_config=OpenAPIConfig(title="kvshelf", version="0.1.0", path="/schema"),
        request_max_body_size=config.server.max_body_mib * 2**20,
        logging_config=None,
        signature_types=[],
    )


def _request_id(app: ASGIApp) -> ASGIApp:
    """Gives every request an id: in its log lines and in `x-request-id` on the response."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = uuid.uuid4().hex
        structlog.contextvars.bind_contextvars(request_id=request_id)

        async def with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await app(scope, receive, with_id)
        finally:
            structlog.contextvars.unbind_contextvars("request_id")

    return middleware


def _kv_server(config: Config, stack: LocalStack | None, session: aiohttp.ClientSession) -> KVServer | None:
    remote, model, disk_path = config.engine.kv_server, absolute(config.model.path), None
    if stack is not None:
        url, disk_path = stack.lmcache_url, stack.disk_path
    elif remote is not None:
        url, disk_path, model = remote.url, remote.disk_path, remote.model or model
    else:
        return None
    return LMCacheServer(url, session, model=model, chunk_tokens=config.engine.chunk_tokens, disk_path=disk_path)


async def _embedder(config: Config, cleanup: AsyncExitStack) -> Embedder | None:
    """The embedding model; None, and a line in the log, where it can't be had: routing is then lexical only."""
    if config.embedding is None:
        return None
    embedder = SentenceEmbedder(config.embedding.model)
    cleanup.callback(embedder.close)
    try:
        await embedder.open()
    except EmbedderUnavailable as error:
        log.warning("embedding_unavailable", error=str(error), consequence="routing is lexical only")
        return None
    return embedder


def _observe(telemetry: Telemetry, shelf: Shelf, pool: WorkerPool) -> None:
    def documents() -> list[tuple[float, dict[str, str]]]:
        states: dict[str, int] = {}
        for document in shelf.catalog:
            version = document.answering
            state = version.state.value if version is not None else "failed"
            states[state] = states.get(state, 0) + 1
        return [(count, {names.STATE: state}) for state, count in states.items()]

    telemetry.observe(names.DOCUMENTS_GAUGE, "Documents, by the state of the version that answers", documents)
    telemetry.observe(names.WORKERS_GAUGE, "Workers that can answer", lambda: [(pool.healthy, {})])
    telemetry.observe(
        names.RUNNING_GAUGE,
        "Requests under way, by worker",
        lambda: [(count, {names.WORKER: name}) for name, count in pool.running],
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
