"""`GET /admin/usage`: what every tenant has used, for operators, on their listener."""

from __future__ import annotations

from typing import Annotated

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from gateway.api.usage_api import GIVEN, Format, report
from gateway.tenants.doors import needs
from gateway.tenants.usage import UsageBooks


@get("/admin/usage", tags=["usage"], opt=needs("admin") | GIVEN)
async def admin_usage(
    usage: NamedDependency[UsageBooks],
    since: Annotated[str | None, QueryParameter(name="from", max_length=30)] = None,
    until: Annotated[str | None, QueryParameter(name="to", max_length=30)] = None,
    tenant: FromQuery[str | None] = None,
    by: FromQuery[str | None] = None,
    format: FromQuery[Format] = "json",
) -> Response[bytes]:
    """As the tenants' `/v1/usage`, of all tenants or of one."""
    return await report(usage, since, until, tenant or None, by, format)
