"""API keys: which are recognised, what each scope opens, and that neither a key nor a text is told to anybody."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import structlog
from litestar.routes import ASGIRoute, HTTPRoute

from gateway.errors import Unauthorized
from gateway.tenants import keys
from gateway.tenants.authenticator import Authenticator
from gateway.tenants.keys import new_key
from router.documents import TenantId
from tests.fakes.gateway import SECRET, Gateway
from tests.fakes.store import MemoryStore

PUBLIC = {("GET", "/health/live"), ("GET", "/health/ready")}
LEASE = "# Lease\n\nThe deposit is 2,400 euros."


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with Gateway(tmp_path_factory.mktemp("house")).running() as gateway:
        await gateway.add(LEASE, id="lease")
        yield gateway


def key_of(secret: bytes = SECRET, **changes: Any) -> tuple[str, Any]:
    return new_key(secret, TenantId("tenant-a"), **{"name": "", "scopes": keys.SCOPES, "now": 0.0, **changes})


def flipped(key: str, at: int) -> str:
    """The key with one character changed."""
    characters = list(key)
    characters[at] = "1" if characters[at] == "0" else "0"
    return "".join(characters)


def rewritten(key: str) -> str:
    """The key with another secret and the checksum that goes with it: what a guesser would send."""
    body = flipped(key[:-8], -1)
    return body + hashlib.sha256(body.encode()).hexdigest()[:8]


async def refusal(gateway: Gateway, header: str | None) -> tuple[Any, str | None]:
    headers = {} if header is None else {"authorization": header}
    async with gateway.session.get(f"{gateway.url}/v1/models", headers=headers) as response:
        assert response.status == 401
        return (await response.json())["error"], response.headers.get("www-authenticate")


# --- over HTTP


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer hunter2",
        "Bearer sk-" + "a" * 48,
        "Bearer kvs_live_",
        "Basic dXNlcjpwYXNzd29yZA==",
        "{key}",
        "Token {key}",
        "Bearer {key}0",
        "Bearer {cut}",
        "Bearer {mistyped}",
        "Bearer ü",
    ],
)
async def test_without_a_key_or_with_a_malformed_one_it_is_401_and_says_how(house: Gateway, header: str | None) -> None:
    filled = header and header.format(key=house.key, cut=house.key[:-1], mistyped=flipped(house.key, 40))
    error, challenge = await refusal(house, filled)
    assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)
    assert "Authorization: Bearer <key>" in error["message"]
    assert house.key not in str(error)
    assert challenge == "Bearer"


async def test_a_mistyped_key_is_told_without_asking_the_store(house: Gateway) -> None:
    house.store.fault = "is away"  # type: ignore[attr-defined]
    try:
        error, _ = await refusal(house, f"Bearer {flipped(house.key, 40)}")
    finally:
        house.store.fault = None  # type: ignore[attr-defined]
    assert "mistyped" in error["message"]


async def test_wrong_unknown_revoked_and_foreign_keys_look_alike(house: Gateway) -> None:
    revoked = await house.new_key("tenant-a")
    await house.store.revoke_key(revoked.split("_")[2], 1.0)
    foreign, record = key_of(b"another gateway's secret, as long")
    await house.store.add_key(record)
    unknown, _ = key_of()
    answers = [await refusal(house, f"Bearer {key}") for key in (rewritten(house.key), unknown, revoked, foreign)]
    assert answers[1:] == answers[:-1]
    assert "unknown or was revoked" in answers[0][0]["message"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_right_key_is_recognised_however_its_scheme_is_written(house: Gateway, scheme: str) -> None:
    async with house.session.get(f"{house.url}/v1/models", headers={"authorization": f"{scheme}  {house.key} "}) as response:
        assert response.status == 200


def routes(gateway: Gateway) -> list[tuple[str, str]]:
    """(method, path) of everything the application answers."""
    found = []
    for route in gateway.apps.tenants.routes:
        path = "".join(f"/{part if isinstance(part, str) else 'x'}" for part in route.path_components) or "/"
        if isinstance(route, HTTPRoute):
            found += [(method, path) for handler in route.route_handlers for method in handler.http_methods if method != "OPTIONS"]
        elif isinstance(route, ASGIRoute):
            found.append(("POST", path))
    return sorted(found)


async def test_every_route_but_health_and_metrics_needs_a_key(house: Gateway) -> None:
    found = routes(house)
    assert {("POST", "/v1/chat/completions"), ("DELETE", "/v1/documents/x"), ("GET", "/v1/jobs/x/events")} < set(found)
    assert set(found) > PUBLIC
    opened = set()
    for method, path in found:
        for header in ({}, {"authorization": f"Bearer {rewritten(house.key)}"}):
            async with house.session.request(method, house.url + path, headers=header) as response:
                if response.status != 401:
                    opened.add((method, path))
                else:
                    assert (await response.json())["error"]["code"] == "invalid_api_key"
    assert opened == PUBLIC


async def test_an_unknown_route_is_404_in_the_same_envelope(house: Gateway) -> None:
    async with house.session.get(f"{house.url}/v1/nowhere") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("scope", "opens"),
    [
        ("ask", {"ask", "route"}),
        ("documents", {"add", "change", "remove"}),
        ("share", {"add shared"}),
    ],
)
async def test_a_scope_opens_what_it_names_and_no_more(house: Gateway, scope: str, opens: set[str]) -> None:
    key = await house.new_key("tenant-a", (scope,))
    name = f"scoped-{scope}"
    await house.add(LEASE + scope, id=name)
    question = {"messages": [{"role": "user", "content": "What is the deposit?"}], "document": "lease"}
    calls: dict[str, tuple[str, str, Any]] = {
        "ask": ("POST", "/v1/chat/completions", question),
        "route": ("POST", "/v1/route", {"question": "What is the deposit?"}),
        "add": ("POST", "/v1/documents", {"id": name, "text": LEASE + scope}),
        "add shared": ("POST", "/v1/documents", {"id": name, "text": LEASE, "shared": True}),
        "change": ("PATCH", f"/v1/documents/{name}", {"summary": "x"}),
        "remove": ("DELETE", f"/v1/documents/{name}", None),
    }
    opened = set()
    for call, (method, path, body) in calls.items():
        async with house.request(method, path, json=body, key=key) as response:
            assert response.status in (200, 202, 403), await response.text()
            if response.status == 403:
                error = (await response.json())["error"]
                assert (error["type"], error["code"]) == ("permission_error", "forbidden")
                assert "lacks the scope" in error["message"]
            else:
                opened.add(call)
    assert opened == opens


# --- the record, the cache, the log


async def test_only_a_hash_of_the_secret_is_stored() -> None:
    key, record = key_of()
    stored = msgspec.json.encode(record).decode()
    secret = key.split("_")[3]
    assert record.public_id in key
    assert not any(secret[start : start + 8] in stored for start in range(len(secret) - 7))
    assert key_of()[1].secret_hash != record.secret_hash


async def test_the_hash_depends_on_the_servers_secret() -> None:
    store = MemoryStore()
    await store.open()
    key, record = key_of()
    await store.add_key(record)
    assert (await Authenticator(store, SECRET).recognise(f"Bearer {key}")).tenant == "tenant-a"
    with pytest.raises(Unauthorized):
        await Authenticator(store, b"another gateway's secret, as long").recognise(f"Bearer {key}")


async def test_no_log_line_holds_a_key_a_secret_a_question_or_a_text(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        await gateway.add("# Plan\n\nProject Zebra costs nine.", id="plan", summary="Okapi.")
        await gateway.ask("Does Quagga know?", document="plan")
        await gateway.json("POST", "/v1/route", json={"question": "Does Quagga know?"})
        await refusal(gateway, f"Bearer {flipped(gateway.key, 40)}")
        await refusal(gateway, f"Bearer {rewritten(gateway.key)}")
        gateway.workers[0].problem = "is on fire"
        await gateway.ask("Does Quagga know?", document="plan", status=503)
        gateway.workers[0].problem = None
        gateway.store.fault = "is away"  # type: ignore[attr-defined]
        await gateway.json("DELETE", "/v1/documents/plan", status=503)
        gateway.store.fault = None  # type: ignore[attr-defined]
    told = str(lines) + caplog.text
    assert "version_added" in told
    secret = gateway.key.split("_")[3][:64]
    words = (gateway.key, secret, SECRET.decode(), "Bearer", "Zebra", "Okapi", "Quagga")
    assert [word for word in words if word in told] == []
