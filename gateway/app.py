"""The gateway's doors: the application for tenants, and the one for operators, which has a listener of its own.

What is behind them is made in `gateway/graph.py`; it runs as long as the tenants' application does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from litestar import Litestar, asgi
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.types import Receive, Scope, Send

from gateway.api import admin_api, admin_tenants_api, routing_api, system_api
from gateway.api.asgi import request_id
from gateway.api.documents_api import DocumentsController
from gateway.api.jobs_api import JobsController
from gateway.api.limits_api import LimitsMiddleware
from gateway.api.tiers_api import TiersController
from gateway.config import Config
from gateway.errors import HANDLERS
from gateway.graph import Graph, build
from gateway.parts import Parts
from gateway.server import CLOSE_STREAMS
from gateway.tenants.authenticator import KeyMiddleware


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

    @asgi("/v1/chat/completions", copy_scope=False)
    async def chat_completions(scope: Scope, receive: Receive, send: Send) -> None:
        await graph.chat(scope, receive, send)

    names = ("config", "shelf", "volumes", "quotas", "classifier", "second_look", "tuning", "health", "views", "moves")
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
        ],
        dependencies=_dependencies(graph, *names),
        middleware=[
            request_id,
            DefineMiddleware(KeyMiddleware, authenticator=graph.authenticator),
            DefineMiddleware(LimitsMiddleware, limiter=graph.limiter),
        ],
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        openapi_config=OpenAPIConfig(title="kvshelf", version="0.1.0", path="/schema"),
        request_max_body_size=graph.config.server.max_body_mib * 2**20,
        logging_config=None,
        state=State({CLOSE_STREAMS: graph.shelf.close}),
    )


def _for_operators(graph: Graph) -> Litestar:
    return Litestar(
        route_handlers=[admin_api.metrics, admin_api.health, admin_tenants_api.tenants],
        dependencies=_dependencies(graph, "telemetry", "health", "overview"),
        middleware=[request_id, DefineMiddleware(KeyMiddleware, authenticator=graph.authenticator)],
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(title="kvshelf for operators", version="0.1.0", path="/schema"),
        logging_config=None,
    )


def _dependencies(graph: Graph, *names: str) -> dict[str, Any]:
    return {name: Provide(_giving(getattr(graph, name)), sync_to_thread=False) for name in names}


def _giving(value: Any) -> Callable[[], Any]:
    return lambda: value
