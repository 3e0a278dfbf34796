"""`GET /admin/usage`: what every tenant has used, for operators, on their listener."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from gateway.api.usage_api import Format, report
from gateway.tenants.authenticator import Principal
from gateway.tenants.usage import UsageBooks


@get("/admin/usage", tags=["usage"])
async def admin_usage(
    usage: NamedDependency[UsageBooks],
    request: Request[Any, Principal, Any],
    since: Annotated[str | None, QueryParameter(name="from", max_length=30)] = None,
    until: Annotated[str | None, QueryParameter(name="to", max_length=30)] = None,
    tenant: FromQuery[str | None] = None,
    by: FromQuery[str | None] = None,
    format: FromQuery[Format] = "json",
) -> Response[bytes]:
    """As the tenants' `/v1/usage`, of all tenants or of one."""
    request.auth.need("admin")
    return await report(usage, since, until, tenant or None, by, format)
