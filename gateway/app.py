"""The gateway's doors: the application for tenants, and the one for operators, which has a listener of its own.

What is behind them is made in `gateway/graph.py`; it runs as long as the tenants' application does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from litestar import Litestar, asgi
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.types import Receive, Scope, Send

from gateway.api import admin_api, admin_tenants_api, admin_usage_api, keys_api, routing_api, system_api, usage_api
from gateway.api.asgi import uncompressed
from gateway.api.chat_shapes import CHAT
from gateway.api.description import described
from gateway.api.documents_api import DocumentsController
from gateway.api.jobs_api import JobsController
from gateway.api.limits_api import LimitsMiddleware
from gateway.api.tiers_api import TiersController
from gateway.config import Config
from gateway.edge.hosts import Hosts
from gateway.edge.limits import MIB, Limits
from gateway.errors import HANDLERS
from gateway.graph import Graph, build
from gateway.parts import Parts
from gateway.sections import Admin, Server
from gateway.server import CLOSE_STREAMS, LIMITS
from gateway.tenants.doors import AdminKeyMiddleware, KeyMiddleware, needs
from gateway.tenants.keys import SCOPES

ADMIN_BODY_BYTES = 2**20

EXPOSED = ["x-document-id", "x-document-volume", "x-route-score", "x-cache-tier", "x-worker", "x-request-id", "retry-after"]
"""The headers of an answer that a page of another origin may read, where there is one that may ask at all."""


class Apps(NamedTuple):
    tenants: Litestar
    operators: Litestar


def create_apps(config: Config, parts: Parts, *, now: Callable[[], float] = time.time) -> Apps:
    """The applications over these parts, the store open. Raises LayoutError where the model's template can't be split."""
    graph = build(config, parts, now=now)
    return Apps(_for_tenants(graph), _for_operators(graph))


def _for_tenants(graph: Graph) -> Litestar:
    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with graph.running():
            yield

    @asgi("/v1/chat/completions", copy_scope=False, opt=needs("ask") | CHAT)
    async def chat_completions(scope: Scope, receive: Receive, send: Send) -> None:
        """Ask a document, or let one be found. As OpenAI's chat completions, whole or as a stream of events."""
        await graph.chat(scope, receive, send)

    server = graph.config.server
    names = (
        *("config", "shelf", "volumes", "extractor", "classifier", "second_look", "tuning", "health", "views", "moves", "ledger"),
        *("streams", "audit", "usage", "quotas"),
    )
    return Litestar(
        route_handlers=[
            chat_completions,
            DocumentsController,
            JobsController,
            TiersController,
            system_api.models,
            usage_api.usage,
            routing_api.route,
            routing_api.fit,
            routing_api.reset,
            system_api.live,
            system_api.ready,
        ],
        dependencies=_dependencies(graph, *names),
        middleware=[
            uncompressed,
            DefineMiddleware(KeyMiddleware, authenticator=graph.authenticator),
            DefineMiddleware(LimitsMiddleware, limiter=graph.limiter),
        ],
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        openapi_config=described("kvshelf", needs(*SCOPES)),
        request_max_body_size=server.max_body_mib * MIB,
        cors_config=CORSConfig(list(server.cors_origins), expose_headers=EXPOSED) if server.cors_origins else None,
        logging_config=None,
        state=State({CLOSE_STREAMS: graph.shelf.close, LIMITS: _limits(graph.config, server, "server")}),
    )


def _for_operators(graph: Graph) -> Litestar:
    return Litestar(
        route_handlers=[
            admin_api.metrics,
            admin_api.health,
            admin_usage_api.admin_usage,
            admin_tenants_api.tenants,
            keys_api.KeysController,
            keys_api.audit_log,
        ],
        dependencies=_dependencies(graph, "telemetry", "health", "usage", "overview", "keyring", "audit"),
        middleware=[uncompressed, DefineMiddleware(AdminKeyMiddleware, authenticator=graph.authenticator, audit=graph.audit)],
        exception_handlers=HANDLERS,
        openapi_config=described("kvshelf for operators", needs("admin")),
        request_max_body_size=ADMIN_BODY_BYTES,
        logging_config=None,
        state=State({LIMITS: _limits(graph.config, graph.config.admin, "admin")}),
    )


def _limits(config: Config, listener: Server | Admin, section: str) -> Limits:
    """What this listener bears: its own names, and the times and sizes of `server`."""
    server = config.server
    return Limits(
        header_timeout_s=server.header_timeout_s,
        body_timeout_s=server.body_timeout_s,
        max_body_bytes=server.max_body_mib * MIB,
        max_connections=server.max_connections,
        hosts=Hosts(listener.allowed_hosts, own=listener.host),
        hosts_setting=f"{section}.allowed_hosts",
    )


def _dependencies(graph: Graph, *names: str) -> dict[str, Any]:
    return {name: Provide(_giving(getattr(graph, name)), sync_to_thread=False) for name in names}


def _giving(value: Any) -> Callable[[], Any]:
    return lambda: value
