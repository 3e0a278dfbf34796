"""What the gateway is made of that touches the world, and the making of it from the configuration.

Tests hand `gateway/app.py` fakes in their place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import structlog

from backends.base import Embedder, KVServer, Store, Worker
from backends.batching import BatchingEmbedder
from backends.embedding import EmbedderUnavailable, SentenceEmbedder
from backends.kv_events import KVEventListener
from backends.lmcache import CacheEventReceiver, LMCacheServer, kv_bytes_a_token
from backends.local.commands import LMCACHE, absolute
from backends.local.stack import LocalStack
from backends.shared_counts import SharedCounts
from backends.store.sql_store import SqlStore
from backends.tokenizer import ChatTokenizer
from backends.tokenizer import load as load_tokenizer
from backends.vllm import VllmWorker
from gateway.config import Config, database_url, key_file_problems, limits_storage, server_secret
from gateway.strict_yaml import ConfigError
from observability.telemetry import Telemetry
from router.residency import Ledger

log = structlog.get_logger("parts")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the gateway is made of. `versions`: the engine's, part of its fingerprint."""

    store: Store
    workers: tuple[Worker, ...]
    kv_servers: tuple[KVServer, ...]
    hosts: Mapping[str, str]
    """The name of each worker's KV server."""
    token_bytes: float = 0.0
    """What a token's KV takes; 0 where that isn't known."""
    embedder: Embedder | None
    embedder_problem: str | None = None
    """Why there is no embedder although one is configured."""
    tokenizer: ChatTokenizer
    versions: Mapping[str, str]
    secret: bytes
    telemetry: Telemetry
    shared_counts: SharedCounts | None = None
    """What is used of limits, counted together with other gateways; None: this one counts alone."""
    observers: tuple[Callable[[Ledger], Awaitable[None]], ...] = ()
    """What tells the ledger of the tiers, as long as it runs."""


@asynccontextmanager
async def open_parts(config: Config, stack: LocalStack | None = None) -> AsyncIterator[Parts]:
    """The real parts. `stack` is the engine on this machine, where the configuration has one.

    Raises ConfigError, LayoutError or StoreUnavailable that says what to mend.
    """
    secret = server_secret(config)
    if problems := key_file_problems(config):
        raise ConfigError(problems)
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
        url = limits_storage(config)
        shared_counts = SharedCounts(url) if url is not None else None
        if shared_counts is not None:
            cleanup.push_async_callback(shared_counts.close)
        kv_servers, hosts = _kv_servers(config, stack, session)
        yield Parts(
            store=store,
            workers=workers,
            kv_servers=kv_servers,
            hosts=hosts,
            token_bytes=_token_bytes(config),
            embedder=embedder,
            embedder_problem=embedder_problem,
            tokenizer=tokenizer,
            versions=_versions(config, stack),
            secret=secret,
            telemetry=telemetry,
            shared_counts=shared_counts,
            observers=tuple(_observers(config)),
        )


def _kv_servers(
    config: Config, stack: LocalStack | None, session: aiohttp.ClientSession
) -> tuple[tuple[KVServer, ...], dict[str, str]]:
    """The KV servers, and the name of each worker's."""
    chunk_tokens, model = config.engine.chunk_tokens, absolute(config.model.path)
    a_token = kv_bytes_a_token(config.model.path, config.model.dtype)
    if stack is not None and config.engine.local is not None:
        server = LMCacheServer(
            stack.lmcache_url,
            session,
            model=model,
            chunk_tokens=chunk_tokens,
            disk_path=stack.disk_path,
            key_path=stack.key_path if config.engine.local.encrypted else None,
            named=True,
            chunk_bytes=a_token * chunk_tokens if a_token is not None else None,
            name=LMCACHE,
        )
        return (server,), {name: server.name for name, _ in stack.workers}
    servers = tuple(
        LMCacheServer(
            remote.url,
            session,
            model=remote.model or model,
            chunk_tokens=chunk_tokens,
            disk_path=remote.disk_path,
            key_path=remote.key_path,
            named=remote.named_seals,
            chunk_bytes=remote.chunk_bytes or (a_token * chunk_tokens if a_token is not None else None),
            name=remote.name,
        )
        for remote in config.engine.kv_servers
    )
    return servers, config.engine.hosts


def _versions(config: Config, stack: LocalStack | None) -> dict[str, str]:
    """The engine's versions, and how its disk tier is stored: LMCache would take a sealed file for plain KV."""
    found = stack.versions() if stack is not None else {}
    return found | ({"disk": "plain"} if config.engine.local is not None and not config.engine.local.encrypted else {})


def _token_bytes(config: Config) -> float:
    told = next((server.chunk_bytes for server in config.engine.kv_servers if server.chunk_bytes is not None), None)
    if told is not None:
        return told / config.engine.chunk_tokens
    return kv_bytes_a_token(config.model.path, config.model.dtype) or 0.0


def _observers(config: Config) -> Iterator[Callable[[Ledger], Awaitable[None]]]:
    """The ears for workers' and KV servers' events."""
    engine, local = config.engine, config.engine.local
    workers = f"tcp://127.0.0.1:{local.kv_events_port}" if local is not None else engine.kv_events
    if workers is not None:
        yield lambda ledger: KVEventListener(workers, ledger).run()
    servers = f"127.0.0.1:{local.kv_server_events_port}" if local is not None else engine.kv_server_events
    if servers is not None:
        host, _, port = servers.rpartition(":")
        model = absolute(config.model.path)
        models = {server.name: server.model for server in engine.kv_servers if server.model is not None}
        yield lambda ledger: CacheEventReceiver(host, int(port), ledger, model=model, models=models).run()


async def _embedder(config: Config, cleanup: AsyncExitStack) -> tuple[Embedder | None, str | None]:
    """The embedding model; where it can't be had, None and why: routing is then lexical only."""
    if config.embedding is None:
        return None, None
    model = SentenceEmbedder(config.embedding.model)
    cleanup.callback(model.close)
    try:
        await model.open()
    except EmbedderUnavailable as error:
        log.warning("embedding_unavailable", error=str(error), consequence="routing is lexical only")
        return None, f"{error} Routing is lexical only."
    embedder = BatchingEmbedder(model, max_waiting=config.embedding.max_waiting)
    cleanup.callback(embedder.close)
    return embedder, None
