"""Every route of both applications: shut without a good key, and without the scope that it is for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from litestar import Litestar, get
from litestar.middleware import DefineMiddleware
from litestar.routes import ASGIRoute, HTTPRoute

from gateway.errors import HANDLERS
from gateway.tenants.authenticator import Authenticator
from gateway.tenants.doors import KeyMiddleware
from gateway.tenants.keys import SCOPES, new_key
from router.documents import TenantId
from tests.fakes.gateway import SECRET, Gateway, serving
from tests.fakes.store import MemoryStore
from tests.gateway.tenants.test_keys import flipped, rewritten

LEASE = "# Lease\n\nThe deposit is 2,400 euros."
PUBLIC = {
    ("tenants", "GET", "/health/live"),
    ("tenants", "GET", "/health/ready"),
    ("operators", "GET", "/health/ready"),
    ("operators", "GET", "/metrics"),
}
NEEDED = {
    ("tenants", "POST", "/v1/chat/completions"): {"ask"},
    ("tenants", "POST", "/v1/route"): {"ask"},
    ("tenants", "GET", "/v1/models"): {"ask"},
    ("tenants", "GET", "/v1/documents"): {"read"},
    ("tenants", "GET", "/v1/documents/x"): {"read"},
    ("tenants", "GET", "/v1/jobs"): {"read"},
    ("tenants", "GET", "/v1/jobs/x"): {"read"},
    ("tenants", "GET", "/v1/jobs/x/events"): {"read"},
    ("tenants", "POST", "/v1/documents"): {"write", "share"},
    ("tenants", "PATCH", "/v1/documents/x"): {"write", "share"},
    ("tenants", "DELETE", "/v1/documents/x"): {"write", "share"},
    ("tenants", "POST", "/v1/documents/x/warm"): {"write", "share"},
    ("tenants", "POST", "/v1/documents/x/evict"): {"write", "share"},
    ("tenants", "POST", "/v1/route/fit"): {"write"},
    ("tenants", "DELETE", "/v1/route/fit"): {"write"},
    ("operators", "GET", "/admin/keys"): {"admin"},
    ("operators", "POST", "/admin/keys"): {"admin"},
    ("operators", "GET", "/admin/keys/x"): {"admin"},
    ("operators", "PATCH", "/admin/keys/x"): {"admin"},
    ("operators", "DELETE", "/admin/keys/x"): {"admin"},
    ("operators", "POST", "/admin/keys/x/rotate"): {"admin"},
    ("operators", "POST", "/admin/keys/x/finish"): {"admin"},
    ("operators", "GET", "/admin/audit"): {"admin"},
    ("operators", "GET", "/admin/usage"): {"admin"},
    ("operators", "GET", "/admin/tenants"): {"admin"},
    ("tenants", "GET", "/v1/usage"): {"read"},
}
"""Any one of them opens the route. One that is not here fails the first test."""


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with Gateway(tmp_path_factory.mktemp("house")).running() as gateway:
        await gateway.add(LEASE, id="lease")
        yield gateway


def routes(application: str, app: Litestar) -> set[tuple[str, str, str]]:
    """(application, method, path) of everything that it answers."""
    found = set()
    for route in app.routes:
        path = "".join(f"/{part if isinstance(part, str) else 'x'}" for part in route.path_components) or "/"
        if isinstance(route, HTTPRoute):
            methods = {method for handler in route.route_handlers for method in handler.http_methods}
            found |= {(application, method, path) for method in methods if method != "OPTIONS"}
        elif isinstance(route, ASGIRoute):
            found.add((application, "POST", path))
    return found


def all_routes(gateway: Gateway) -> dict[tuple[str, str, str], set[str]]:
    """Every route that needs a key, and the scopes that open it."""
    found = routes("tenants", gateway.apps.tenants) | routes("operators", gateway.apps.operators)
    described = {route for route in found if route[2].startswith("/schema")}
    assert len(described) > 4
    assert found - described - PUBLIC == set(NEEDED)
    return NEEDED | {route: set(SCOPES) if route[0] == "tenants" else {"admin"} for route in described}


async def status(gateway: Gateway, route: tuple[str, str, str], key: str | None) -> int:
    application, method, path = route
    url = (gateway.url if application == "tenants" else gateway.admin_url) + path
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with gateway.session.request(method, url, headers=headers, allow_redirects=False) as response:
        if response.status in (401, 403):
            error = (await response.json())["error"]
            assert error["code"] == {401: "invalid_api_key", 403: "forbidden"}[response.status]
            assert error["type"] == {401: "authentication_error", 403: "permission_error"}[response.status]
        return response.status


async def test_what_is_public_is_open_without_a_key_and_nothing_else_is(house: Gateway) -> None:
    for route in PUBLIC:
        assert await status(house, route, None) == 200
    for route in all_routes(house):
        assert await status(house, route, None) == 401, route


async def test_no_route_opens_for_a_malformed_wrong_expired_or_revoked_key(house: Gateway) -> None:
    revoked, expired = await house.new_key("tenant-a", SCOPES), await house.new_key("tenant-a", SCOPES, expires_at=1.0)
    await house.revoke(revoked)
    good = await house.new_key("tenant-a", SCOPES)
    for route in all_routes(house):
        for bad in ("hunter2", flipped(good, 40), rewritten(good), expired, revoked):
            assert await status(house, route, bad) == 401, route


async def test_no_route_opens_without_its_scope_and_each_of_its_scopes_opens_it(house: Gateway) -> None:
    alone = {scope: await house.new_key("tenant-a", (scope,)) for scope in SCOPES}
    none = await house.new_key("tenant-a", ())
    for route, needed in all_routes(house).items():
        assert await status(house, route, none) == 403, route
        others = await house.new_key("tenant-a", tuple(scope for scope in SCOPES if scope not in needed))
        assert await status(house, route, others) == 403, route
        for scope in needed:
            asked = (*route[:2], f"{route[2]}?shared=true") if scope == "share" else route
            found = await status(house, asked, alone[scope])
            assert found not in (401, 403), (route, scope)
            assert found < 500, (route, scope)


async def test_what_a_key_may_not_do_is_refused_before_its_body_is_looked_at(house: Gateway) -> None:
    reader = await house.new_key("tenant-a", ("ask", "read"))
    json = {"content-type": "application/json"}
    assert (await house.json("POST", "/v1/documents", data=b"{", headers=json, status=400))["error"]["code"] == "invalid_request"
    assert (await house.json("POST", "/v1/documents", data=b"{", headers=json, key=reader, status=403))["error"][
        "code"
    ] == "forbidden"


async def test_a_route_that_names_no_scope_is_open_to_nobody() -> None:
    @get("/forgotten")
    async def forgotten() -> str:
        return "open"

    store = MemoryStore()
    await store.open()
    key, record = new_key(SECRET, TenantId("tenant-a"), name="", scopes=SCOPES, now=0.0)
    await store.add_key(record)
    door = DefineMiddleware(KeyMiddleware, authenticator=Authenticator(store, SECRET))
    app = Litestar([forgotten], middleware=[door], exception_handlers=HANDLERS, openapi_config=None, logging_config=None)
    async with (
        serving(app) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/forgotten", headers={"authorization": f"Bearer {key}"}) as response,
    ):
        assert response.status == 403


async def test_the_preflight_tells_the_methods_of_a_path_and_nothing_of_what_is_there(house: Gateway) -> None:
    answers = []
    for name in ("lease", "nowhere"):
        async with house.session.options(f"{house.url}/v1/documents/{name}") as response:
            answers.append((response.status, sorted(response.headers["allow"].split(", ")), await response.text()))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("scope", "opens"),
    [
        ("ask", {"ask", "route"}),
        ("read", {"list", "show", "jobs"}),
        ("write", {"add", "change", "warm", "evict", "remove"}),
        ("share", {"add shared", "change shared", "remove shared"}),
        ("admin", set()),
    ],
)
async def test_a_scope_opens_what_it_names_and_no_more(house: Gateway, scope: str, opens: set[str]) -> None:
    key = await house.new_key("tenant-a", (scope,))
    name, shared = f"own-{scope}", f"shared-{scope}"
    await house.add(LEASE + scope, id=name)
    await house.add(LEASE + scope, id=shared, shared=True)
    question = {"messages": [{"role": "user", "content": "What is the deposit?"}], "document": "lease"}
    calls: dict[str, tuple[str, str, Any]] = {
        "ask": ("POST", "/v1/chat/completions", question),
        "route": ("POST", "/v1/route", {"question": "What is the deposit?"}),
        "list": ("GET", "/v1/documents", None),
        "show": ("GET", "/v1/documents/lease", None),
        "jobs": ("GET", "/v1/jobs", None),
        "add": ("POST", "/v1/documents", {"id": name, "text": LEASE + scope}),
        "add shared": ("POST", "/v1/documents", {"id": shared, "text": LEASE + scope, "shared": True}),
        "change": ("PATCH", f"/v1/documents/{name}", {"summary": "x"}),
        "change shared": ("PATCH", f"/v1/documents/{shared}", {"summary": "x"}),
        "warm": ("POST", f"/v1/documents/{name}/warm", {}),
        "evict": ("POST", f"/v1/documents/{name}/evict", {"tier": "ram"}),
        "remove": ("DELETE", f"/v1/documents/{name}", None),
        "remove shared": ("DELETE", f"/v1/documents/{shared}", None),
    }
    opened = set()
    for call, (method, path, body) in calls.items():
        async with house.request(method, path, json=body, key=key) as response:
            assert response.status in (200, 202, 403), await response.text()
            if response.status == 403:
                assert "lacks the scope" in (await response.json())["error"]["message"]
            else:
                opened.add(call)
    assert opened == opens


async def test_a_missing_scope_tells_nothing_of_which_documents_there_are(house: Gateway) -> None:
    key = await house.new_key("tenant-a", ("ask", "read"))
    for method in ("PATCH", "DELETE"):
        there = await house.json(method, "/v1/documents/lease", key=key, json={}, status=403)
        assert there == await house.json(method, "/v1/documents/nowhere", key=key, json={}, status=403)
