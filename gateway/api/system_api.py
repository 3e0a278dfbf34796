"""What is not a document or a question: models, health and metrics."""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from gateway.api.health import Health
from gateway.config import Config
from gateway.errors import JSON
from observability.telemetry import Telemetry

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


@get("/v1/models", tags=["models"])
async def models(config: NamedDependency[Config]) -> ModelList:
    return ModelList([ModelView(config.model.name, config.model.context_tokens)])


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
