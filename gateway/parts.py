"""What the gateway is made of that touches the world, and the making of it from the configuration.

Tests hand `gateway/app.py` fakes in their place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import structlog

from backends.base import Embedder, KVServer, Store, Worker
from backends.embedding import EmbedderUnavailable, SentenceEmbedder
from backends.lmcache import LMCacheServer, kv_bytes_a_token
from backends.local.commands import absolute
from backends.local.stack import LocalStack
from backends.store.sql_store import SqlStore
from backends.tokenizer import ChatTokenizer
from backends.tokenizer import load as load_tokenizer
from backends.vllm import VllmWorker
from gateway.config import Config, database_url, server_secret
from gateway.strict_yaml import ConfigError
from observability.telemetry import Telemetry

log = structlog.get_logger("parts")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the gateway is made of. `versions`: the engine's, part of its fingerprint."""

    store: Store
    workers: tuple[Worker, ...]
    kv_server: KVServer | None
    embedder: Embedder | None
    embedder_problem: str | None = None
    """Why there is no embedder although one is configured."""
    tokenizer: ChatTokenizer
    versions: Mapping[str, str]
    secret: bytes
    telemetry: Telemetry
    kv_events: str | None = None
    """Where to listen for what the workers hold."""


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
        embedder, embedder_problem = await _embedder(config, cleanup)
        store = SqlStore(database_url(config))
        await store.open()
        cleanup.push_async_callback(store.close)
        yield Parts(
            store=store,
            workers=workers,
            kv_server=_kv_server(config, stack, session),
            embedder=embedder,
            embedder_problem=embedder_problem,
            tokenizer=tokenizer,
            versions=stack.versions() if stack is not None else {},
            secret=secret,
            telemetry=telemetry,
            kv_events=f"tcp://127.0.0.1:{config.engine.local.kv_events_port}" if config.engine.local else config.engine.kv_events,
        )


def _kv_server(config: Config, stack: LocalStack | None, session: aiohttp.ClientSession) -> KVServer | None:
    chunk_tokens, model = config.engine.chunk_tokens, absolute(config.model.path)
    if stack is not None:
        return LMCacheServer(stack.lmcache_url, session, model=model, chunk_tokens=chunk_tokens, disk_path=stack.disk_path)
    remote = config.engine.kv_server
    if remote is None:
        return None
    a_token = kv_bytes_a_token(config.model.path, config.model.dtype)
    chunk_bytes = remote.chunk_bytes or (a_token * chunk_tokens if a_token is not None else None)
    if remote.disk_path is None and chunk_bytes is None:
        raise ConfigError(
            ["`engine.kv_server` needs `disk_path` or `chunk_bytes`: the model's config.json does not tell its KV's size"]
        )
    return LMCacheServer(
        remote.url,
        session,
        model=remote.model or model,
        chunk_tokens=chunk_tokens,
        disk_path=remote.disk_path,
        chunk_bytes=chunk_bytes,
    )


async def _embedder(config: Config, cleanup: AsyncExitStack) -> tuple[Embedder | None, str | None]:
    """The embedding model; where it can't be had, None and why: routing is then lexical only."""
    if config.embedding is None:
        return None, None
    embedder = SentenceEmbedder(config.embedding.model)
    cleanup.callback(embedder.close)
    try:
        await embedder.open()
    except EmbedderUnavailable as error:
        log.warning("embedding_unavailable", error=str(error), consequence="routing is lexical only")
        return None, f"{error} Routing is lexical only."
    return embedder, None
