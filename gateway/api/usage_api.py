"""`GET /v1/usage`: what the tenant of the key has used. All tenants' usage is the operators' (`gateway/api/admin_usage_api.py`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from gateway.api.description import CSV, GIVES
from gateway.errors import JSON
from gateway.tenants.authenticator import Principal
from gateway.tenants.doors import needs
from gateway.tenants.usage import UsageBooks
from gateway.tenants.usage_report import MOST, as_csv, checked, plain, wanted

Format = Literal["json", "csv"]


class UsageReport(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """Days `from` to `to`, both included; each row of `data` has what it is added up `by`, and the counts."""

    since: str
    until: str
    by: tuple[str, ...]
    data: list[dict[str, str | int | float]]


GIVEN: dict[str, Any] = {GIVES: {200: (UsageReport, CSV)}}


@get("/v1/usage", tags=["usage"], opt=needs("read") | GIVEN)
async def usage(
    usage: NamedDependency[UsageBooks],
    request: Request[Any, Principal, Any],
    since: Annotated[str | None, QueryParameter(name="from", max_length=30)] = None,
    until: Annotated[str | None, QueryParameter(name="to", max_length=30)] = None,
    by: FromQuery[str | None] = None,
    format: FromQuery[Format] = "json",
) -> Response[bytes]:
    """What this tenant used, from the day `from` to the day `to` (of UTC, both included; the last 30 days where they are not
    given), added up `by` some of tenant, key, document and day."""
    return await report(usage, since, until, request.auth.tenant, by, format)


async def report(
    usage: UsageBooks, since: str | None, until: str | None, tenant: str | None, by: str | None, format: Format
) -> Response[bytes]:
    """One tenant's usage, or all tenants' where it is None."""
    asked = wanted(since, until, by, today=usage.today)
    rows = checked(await usage.report(since=asked.since, until=asked.until, tenant=tenant, by=asked.by, most=MOST + 1))
    if format == "csv":
        name = f'attachment; filename="usage-{asked.since}-{asked.until}.csv"'
        headers = {"content-disposition": name}
        return Response(as_csv(rows, asked.by).encode(), media_type=CSV, headers=headers)
    told = UsageReport(asked.since, asked.until, asked.by, plain(rows, asked.by))
    return Response(msgspec.json.encode(told), media_type=JSON)
