"""The one place that constructs: the object graph over the parts (`gateway/parts.py`), and the application around it.

The lifespan starts and ends what runs beside the requests.
"""

from __future__ import annotations

import asyncio
import secrets
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
from litestar.types import ASGIApp, Receive, Scope, Send

from backends.fingerprint import engine_fingerprint
from backends.kv_events import KVEventListener
from gateway import system_api
from gateway.auth import Authenticator, KeyMiddleware
from gateway.catalog_file import CatalogWatcher
from gateway.chat import ChatHandler
from gateway.classifier import Classifier
from gateway.config import Config
from gateway.documents import Reading, Shelf
from gateway.documents_api import DocumentsController, JobsController
from gateway.errors import HANDLERS
from gateway.health import Health
from gateway.ingestion import Ingestion
from gateway.parts import Parts
from gateway.pool import WorkerPool
from gateway.prefixes import PrefixCache
from gateway.reaper import Reaper
from gateway.server import CLOSE_STREAMS
from observability import telemetry as names
from observability.telemetry import Telemetry
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
        parts.tokenizer, layout, fingerprint, parts.secret, config.model.context_tokens, config.ingestion.answer_reserve_tokens
    )
    ledger = Ledger()
    engine = config.engine
    pool = WorkerPool(
        parts.workers, ledger, capacity=engine.capacity, kv_server=parts.kv_server, check_interval_s=engine.check_interval_s
    )
    classifier = Classifier(
        parts.store,
        parts.embedder,
        parts.telemetry,
        problem=parts.embedder_problem,
        min_score=config.routing.min_score,
        margin=config.routing.margin,
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
        state=State({CLOSE_STREAMS: shelf.close}),
    )


def _request_id(app: ASGIApp) -> ASGIApp:
    """Gives every request an id: in its log lines and in `x-request-id` on the response."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = secrets.token_hex(16)
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
