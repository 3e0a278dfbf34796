"""What every answer carries, whichever route and whatever came of it; and what a page of another origin may read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from litestar import Litestar

from gateway.edge.door import HEADERS
from gateway.sections import Server
from tests.fakes.gateway import Gateway
from tests.gateway.edge.wire import exchange

ORIGIN = "https://app.example.org"


@pytest.fixture(scope="module")
async def shelf(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with Gateway(tmp_path_factory.mktemp("answers")).running() as running:
        await running.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
        yield running


def routes(app: Litestar) -> Iterator[tuple[str, str]]:
    """(method, path) of each, `lease` in the place of every parameter."""
    for route in app.routes:
        path = "".join("/lease" if not isinstance(part, str) else f"/{part}" for part in route.path_components)
        for method in sorted(getattr(route, "methods", None) or {"POST"}):
            yield method, path


async def test_every_answer_of_every_route_carries_the_security_headers(shelf: Gateway) -> None:
    apps = ((shelf.apps.tenants, shelf.url), (shelf.apps.operators, shelf.admin_url))
    asked = [
        (url, method, path) for app, url in apps for method, path in [*routes(app), ("GET", "/nowhere"), ("PUT", "/v1/models")]
    ]
    assert len(asked) > 30
    statuses = set()
    for url, method, path in asked:
        for key in ({}, {"authorization": f"Bearer {shelf.key}"}):
            async with shelf.session.request(method, url + path, headers=key) as response:
                statuses.add(response.status)
                headers = {name.lower(): value for name, value in response.headers.items()}
            for name, value in HEADERS:
                assert headers[name.decode()] in (value.decode(), "no-cache"), f"{name.decode()} of {method} {path}"
            assert len(headers["x-request-id"]) == 32
            assert "server" not in headers
            assert not [name for name in headers if name.startswith("access-control-")]
    assert statuses >= {200, 400, 401, 404, 405}


async def test_a_stream_and_an_answer_carry_them(shelf: Gateway) -> None:
    await shelf.add("# Contract\n\nThe term is a year.", id="contract")
    for stream in (True, False):
        body = {"messages": [{"role": "user", "content": "why?"}], "document": "contract", "stream": stream}
        async with shelf.request("POST", "/v1/chat/completions", json=body) as response:
            assert response.status == 200
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["cache-control"] == ("no-cache" if stream else "no-store")
            await response.read()


async def test_a_refusal_of_the_connection_itself_carries_them(shelf: Gateway) -> None:
    (answer,) = await exchange(shelf.url, b"nonsense\r\n\r\n")
    assert {name.decode(): value.decode() for name, value in HEADERS}.items() <= answer.headers.items()
    assert "server" not in answer.headers


async def test_no_page_is_served(shelf: Gateway) -> None:
    """None of the pages that Litestar can make of a description: they would run scripts of somebody else's."""
    for path in ("", "/", "/openapi.json", "/redoc", "/swagger", "/scalar", "/elements", "/rapidoc"):
        async with shelf.request("GET", f"/schema{path}") as response:
            assert "<script" not in await response.text()
            assert response.status == (200 if path in ("", "/", "/openapi.json") else 404)


@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST"])
async def test_without_being_told_no_other_origin_may_ask(shelf: Gateway, method: str) -> None:
    headers = {"origin": ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for path in ("/v1/chat/completions", "/v1/documents", "/health/live"):
        async with shelf.session.request(method, shelf.url + path, headers=headers) as response:
            assert not [name for name in response.headers if name.lower().startswith("access-control-")]


async def test_a_configured_origin_may_ask_and_read_and_no_other_may(tmp_path: Path) -> None:
    async with Gateway(tmp_path, server=Server(cors_origins=(ORIGIN,))).running() as gateway:
        await gateway.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
        preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
        url = gateway.url + "/v1/chat/completions"
        async with gateway.session.options(url, headers={"origin": ORIGIN, **preflight}) as response:
            assert response.status == 204
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert "authorization" in response.headers["access-control-allow-headers"].lower()
            assert "access-control-allow-credentials" not in response.headers
        async with gateway.session.options(url, headers={"origin": "https://evil.example", **preflight}) as response:
            assert response.headers.get("access-control-allow-origin") != "https://evil.example"
            assert response.headers.get("access-control-allow-origin") != "*"
        answer = await gateway.ask("why?", document="lease", headers={"origin": ORIGIN})
        assert answer["headers"]["access-control-allow-origin"] == ORIGIN
        assert "x-document-id" in answer["headers"]["access-control-expose-headers"]
        answer = await gateway.ask("why?", document="lease", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer["headers"]
        refused = await gateway.ask("why?", document="nowhere", headers={"origin": ORIGIN}, status=404)
        assert refused["headers"]["access-control-allow-origin"] == ORIGIN
