"""What is not a document or a question: models and health."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from gateway.api.description import GIVES
from gateway.api.health import Health
from gateway.config import Config
from gateway.errors import JSON
from gateway.tenants.doors import PUBLIC, needs


class Readiness(msgspec.Struct, frozen=True):
    status: Literal["ready", "degraded", "unavailable"]


class ModelView(msgspec.Struct, frozen=True):
    id: str
    context_tokens: int
    object: str = "model"
    created: int = 0
    owned_by: str = "kvshelf"


class ModelList(msgspec.Struct, frozen=True):
    data: list[ModelView]
    object: str = "list"


@get("/v1/models", tags=["models"], opt=needs("ask"))
async def models(config: NamedDependency[Config]) -> ModelList:
    return ModelList([ModelView(config.model.name, config.model.context_tokens)])


@get("/health/live", opt=PUBLIC, tags=["health"])
async def live() -> dict[str, str]:
    """The process serves."""
    return {"status": "live"}


@get("/health/ready", opt={**PUBLIC, GIVES: {200: Readiness, 503: Readiness}}, tags=["health"])
async def ready(health: NamedDependency[Health]) -> Response[bytes]:
    """200 where questions can be answered (`degraded`: with something missing), else 503.

    What is wrong with what is for operators: their listener's `/health/ready` says it.
    """
    report = await health.report()
    shown = Readiness(report.status)
    return Response(msgspec.json.encode(shown), status_code=report.http_status, media_type=JSON, headers=report.headers)
