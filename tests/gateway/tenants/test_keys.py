"""API keys: which are recognised, and that neither a key nor a text is told to anybody. What opens what is `test_scopes.py`'s."""

from __future__ import annotations

import ast
import hashlib
import inspect
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Unauthorized
from gateway.tenants import authenticator, keys
from gateway.tenants.authenticator import Authenticator
from gateway.tenants.keys import new_key
from router.documents import TenantId
from tests.fakes.gateway import SECRET, Gateway
from tests.fakes.store import MemoryStore

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


def summed(body: str) -> str:
    """With the checksum that goes with it."""
    return body + hashlib.sha256(body.encode()).hexdigest()[:8]


def rewritten(key: str) -> str:
    """The key with another secret: what a guesser would send."""
    return summed(flipped(key[:-8], -1))


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


async def test_wrong_unknown_expired_revoked_and_foreign_keys_look_alike(house: Gateway) -> None:
    revoked, expired = await house.new_key("tenant-a"), await house.new_key("tenant-a", expires_at=1.0)
    await house.revoke(revoked)
    foreign, record = key_of(b"another gateway's secret, as long")
    await house.store.add_key(record)
    unknown, _ = key_of()
    answers = [await refusal(house, f"Bearer {key}") for key in (rewritten(house.key), unknown, expired, revoked, foreign)]
    assert answers[1:] == answers[:-1]
    assert "unknown, has expired or was revoked" in answers[0][0]["message"]


async def test_a_key_is_good_until_the_moment_of_its_expiry(tmp_path: Path) -> None:
    now = 1000.0
    async with Gateway(tmp_path, now=lambda: now).running() as gateway:
        key = await gateway.new_key("tenant-a", expires_at=1001.0)
        await gateway.json("GET", "/v1/models", key=key)
        now = 1000.999
        await gateway.json("GET", "/v1/models", key=key)
        now = 1001.0
        await gateway.json("GET", "/v1/models", key=key, status=401)


async def test_a_key_of_another_environment_is_unknown(house: Gateway) -> None:
    test = await house.new_key("tenant-a", environment="test")
    assert test.startswith("kvs_test_")
    await house.json("GET", "/v1/models", key=test)
    await house.json("GET", "/v1/models", key=summed(test[:-8].replace("kvs_test_", "kvs_live_")), status=401)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_right_key_is_recognised_however_its_scheme_is_written(house: Gateway, scheme: str) -> None:
    async with house.session.get(f"{house.url}/v1/models", headers={"authorization": f"{scheme}  {house.key} "}) as response:
        assert response.status == 200


async def test_an_unknown_route_is_404_in_the_same_envelope(house: Gateway) -> None:
    async with house.session.get(f"{house.url}/v1/nowhere") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "not_found"


# --- the record, the cache, the log


async def test_only_a_hash_of_the_secret_is_stored() -> None:
    key, record = key_of()
    stored = msgspec.json.encode(record).decode()
    secret = key.split("_")[3]
    assert record.public_id in key
    assert not any(secret[start : start + 8] in stored for start in range(len(secret) - 7))
    assert key_of()[1].secret_hash != record.secret_hash


def test_a_secret_has_256_bits_and_no_two_are_the_same() -> None:
    parsed = [keys.parse(key_of()[0]) for _ in range(200)]
    found = {one.secret for one in parsed if one is not None}
    assert len(found) == 200
    assert all(len(bytes.fromhex(secret)) == 32 and secret[:32] != secret[32:] for secret in found)
    for digits in zip(*found, strict=True):  # each of them is drawn: that one has 5 values of 16 is as good as impossible
        assert len(set(digits)) > 5


@pytest.mark.parametrize("environment", ["live", "test", "a", "abcdefghijkl"])
def test_a_key_is_read_as_it_was_made(environment: str) -> None:
    key, record = key_of(environment=environment)
    parsed = keys.parse(key)
    assert parsed is not None
    assert (parsed.environment, parsed.public_id) == (environment, record.public_id)
    assert keys.secret_hash(SECRET, parsed.secret) == record.secret_hash


@given(st.data())
def test_any_one_wrong_character_is_told_from_a_wrong_key(data: st.DataObject) -> None:
    key, _ = key_of()
    at = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.characters().filter(lambda character: character != key[at]))
    assert keys.parse(key[:at] + other + key[at + 1 :]) is None
    assert keys.parse(key[:at] + key[at + 1 :]) is None


@given(st.text(max_size=200))
def test_no_text_is_taken_for_a_key_or_fails(text: str) -> None:
    assert keys.parse(text) is None
    assert keys.parse("kvs_live_" + text) is None


def test_what_is_secret_is_compared_in_constant_time() -> None:
    """Both comparisons of a proof are made, whichever holds, and by the function that takes the same time for any two."""
    tree = ast.parse(inspect.getsource(authenticator._fits))
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert calls.count("hmac.compare_digest") == 2
    plain = [node for node in ast.walk(tree) if isinstance(node, ast.Compare) and not isinstance(node.ops[0], ast.Is | ast.IsNot)]
    assert plain == []
    ending = ast.walk(tree.body[0].body[-1])  # type: ignore[attr-defined]
    assert not any(isinstance(node, ast.Call) for node in ending)
    recognising = inspect.getsource(authenticator.Authenticator.recognise)
    assert "_fits(" in recognising
    assert "secret_hash ==" not in recognising


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
