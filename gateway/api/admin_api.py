"""What operators see, on a listener of their own: metrics, and all that health knows.

Who reaches the listener may see these without a key: Prometheus and load balancers have none.
"""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from gateway.api.description import GIVES
from gateway.api.health import Health, Report
from gateway.errors import JSON
from gateway.tenants.doors import PUBLIC
from observability.telemetry import Telemetry


@get("/metrics", opt=PUBLIC, include_in_schema=False, sync_to_thread=True)
def metrics(telemetry: NamedDependency[Telemetry]) -> Response[bytes]:
    return Response(telemetry.prometheus(), media_type="text/plain; version=0.0.4; charset=utf-8")


@get("/health/ready", opt={**PUBLIC, GIVES: {200: Report, 503: Report}}, tags=["health"])
async def health(health: NamedDependency[Health]) -> Response[bytes]:
    """As the tenants' `/health/ready`, and what is wrong with what."""
    report = await health.report()
    return Response(msgspec.json.encode(report), status_code=report.http_status, media_type=JSON, headers=report.headers)
