"""What is not a document or a question: models, the classifier's dry run, health and metrics."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency

from backends.base import Store
from gateway.auth import Principal
from gateway.catalog_file import CatalogWatcher
from gateway.classifier import Classifier
from gateway.config import Config
from gateway.documents import Shelf
from gateway.documents_api import decode
from gateway.errors import JSON
from gateway.pool import WorkerPool
from observability.telemetry import Telemetry
from router.matching import Match, Route

PUBLIC = {"exclude_from_auth": True}


class ModelView(msgspec.Struct, frozen=True):
    id: str
    context_tokens: int
    object: str = "model"
    created: int = 0
    owned_by: str = "kvshelf"


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelView]
    object: str = "list"


class RouteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    question: str


class RouteView(msgspec.Struct, frozen=True):
    """`decision`: route, ambiguous or no_match; `document` and `score` only for a route."""

    decision: str
    document: str | None
    score: float | None
    candidates: tuple[Match, ...]


@get("/v1/models", tags=["models"])
async def models(config: NamedDependency[Config]) -> ModelList:
    return ModelList([ModelView(config.model.name, config.model.context_tokens)])


@post("/v1/route", status_code=200, tags=["routing"])
async def route(
    shelf: NamedDependency[Shelf], classifier: NamedDependency[Classifier], request: Request[Any, Principal, Any]
) -> RouteView:
    """Which document a question would go to, with the candidates and their scores. Asks nothing."""
    request.auth.need("ask")
    asked = decode(await request.body(), RouteRequest)
    decision = await classifier.find(shelf.catalog, request.auth.tenant, asked.question)
    found = decision if isinstance(decision, Route) else None
    tag = str(type(decision).__struct_config__.tag)
    return RouteView(tag, found.document if found else None, found.score if found else None, decision.candidates)


@get("/health/live", opt=PUBLIC, tags=["health"])
async def live() -> dict[str, str]:
    """The process serves."""
    return {"status": "live"}


@get("/health/ready", opt=PUBLIC, tags=["health"])
async def ready(
    pool: NamedDependency[WorkerPool],
    store: NamedDependency[Store],
    classifier: NamedDependency[Classifier],
    catalog_watcher: NamedDependency[CatalogWatcher],
) -> Response[bytes]:
    """200 where questions can be answered (`degraded`: with something missing), else 503; says what is wrong with what."""
    database = await store.check()
    problems = {
        **{f"worker {name}": problem for name, problem in pool.problems.items()},
        **({"kv server": pool.kv_problem} if pool.kv_problem else {}),
        **({"database": database} if database else {}),
        **({"embedding": classifier.problem} if classifier.problem else {}),
        **({"catalog": "; ".join(catalog_watcher.problems)} if catalog_watcher.problems else {}),
    }
    able = pool.healthy > 0 and database is None
    status = "unavailable" if not able else "degraded" if problems else "ready"
    body = {"status": status, "workers_healthy": pool.healthy, "workers": len(pool), "problems": problems}
    headers = {} if able else {"retry-after": "5"}
    return Response(msgspec.json.encode(body), status_code=200 if able else 503, media_type=JSON, headers=headers)


@get("/metrics", opt=PUBLIC, include_in_schema=False, sync_to_thread=True)
def metrics(telemetry: NamedDependency[Telemetry]) -> Response[bytes]:
    return Response(telemetry.prometheus(), media_type="text/plain; version=0.0.4; charset=utf-8")
