"""What is not a document or a question: models, the classifier's dry run, health and metrics."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency

from gateway.api.documents_api import decode
from gateway.api.health import Health
from gateway.auth import Principal
from gateway.config import Config
from gateway.errors import JSON
from gateway.shelf.classifier import Classifier
from gateway.shelf.documents import Shelf
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
    earlier: tuple[str, ...] = ()
    """What the user said before it: a conversation stays with its document until a question leaves it."""


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
    decision = await classifier.find(shelf.catalog, request.auth.tenant, (*asked.earlier, asked.question))
    found = decision if isinstance(decision, Route) else None
    tag = str(type(decision).__struct_config__.tag)
    return RouteView(tag, found.document if found else None, found.score if found else None, decision.candidates)


@get("/health/live", opt=PUBLIC, tags=["health"])
async def live() -> dict[str, str]:
    """The process serves."""
    return {"status": "live"}


@get("/health/ready", opt=PUBLIC, tags=["health"])
async def ready(health: NamedDependency[Health]) -> Response[bytes]:
    """200 where questions can be answered (`degraded`: with something missing), else 503; says what is wrong with what."""
    report = await health.report()
    unavailable = report.status == "unavailable"
    headers = {"retry-after": "5"} if unavailable else {}
    return Response(msgspec.json.encode(report), status_code=503 if unavailable else 200, media_type=JSON, headers=headers)


@get("/metrics", opt=PUBLIC, include_in_schema=False, sync_to_thread=True)
def metrics(telemetry: NamedDependency[Telemetry]) -> Response[bytes]:
    return Response(telemetry.prometheus(), media_type="text/plain; version=0.0.4; charset=utf-8")
