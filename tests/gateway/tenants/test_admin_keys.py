"""`/admin/keys` on the operators' listener: keys made, changed, rotated and revoked, and what can't be done."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.sections import Keys
from tests.fakes.gateway import Gateway

HASHES = ("hash", "proof")
FAR = "2099-01-01T00:00:00Z"


class Office:
    """A gateway and a key that may administer it."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self.gateway, self.key = gateway, key

    async def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        headers = {"authorization": f"Bearer {self.key}"}
        url = self.gateway.admin_url + path
        async with self.gateway.session.request(method, url, json=body, headers=headers) as response:
            text = await response.text()
            assert response.status == status, f"{response.status}: {text}"
            assert not any(word in text for word in HASHES)
            if "kvs_" in text:
                assert response.headers["cache-control"] == "no-store"
            return json.loads(text)

    async def create(self, **fields: Any) -> Any:
        return await self.call("POST", "/admin/keys", {"tenant": "tenant-b", **fields}, status=201)

    async def opens(self, key: str, method: str = "GET", path: str = "/v1/models") -> int:
        async with self.gateway.request(method, path, key=key) as response:
            return int(response.status)


@pytest.fixture(scope="module")
async def office(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Office]:
    async with Gateway(tmp_path_factory.mktemp("office")).running() as gateway:
        yield Office(gateway, await gateway.new_key("operators", ("admin",)))


@pytest.fixture(autouse=True)
def no_memory(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are looked up each time: how long one is believed is `test_authenticator.py`'s."""
    monkeypatch.setattr("gateway.tenants.authenticator.CACHE_S", 0.0)


async def test_a_key_is_made_shown_once_and_works(office: Office) -> None:
    made = await office.create(name="for CI")
    assert made["key"].startswith(f"kvs_live_{made['id']}_")
    assert (made["tenant"], made["name"], made["scopes"]) == ("tenant-b", "for CI", ["ask", "read", "write"])
    assert (made["state"], made["expire_at"], made["documents"], made["tags"]) == ("active", None, [], [])
    assert await office.opens(made["key"]) == 200
    shown = await office.call("GET", f"/admin/keys/{made['id']}")
    assert shown == {name: value for name, value in made.items() if name != "key"}
    listed = await office.call("GET", "/admin/keys")
    assert shown in listed["data"]
    assert "kvs_" not in str(listed)


async def test_a_key_has_what_was_asked_for(office: Office) -> None:
    asked = {"scopes": ["read", "ask"], "environment": "test", "expire_at": FAR, "documents": ["lease"], "tags": ["open"]}
    made = await office.create(**asked)
    assert made["key"].startswith("kvs_test_")
    assert made["scopes"] == ["ask", "read"]
    assert {name: made[name] for name in ("environment", "expire_at", "documents", "tags")} == {
        name: asked[name] for name in ("environment", "expire_at", "documents", "tags")
    }


async def test_the_configuration_says_what_keys_begin_with(tmp_path: Path) -> None:
    async with Gateway(tmp_path, keys=Keys("staging")).running() as gateway:
        office = Office(gateway, await gateway.new_key("operators", ("admin",)))
        assert (await office.create())["key"].startswith("kvs_staging_")


async def test_a_list_is_of_one_tenant_where_asked(office: Office) -> None:
    await office.create(tenant="lonely")
    assert [key["tenant"] for key in (await office.call("GET", "/admin/keys?tenant=lonely"))["data"]] == ["lonely"]


async def test_what_is_changed_counts_and_the_rest_stays(office: Office) -> None:
    made = await office.create(name="old", tags=["open"], expire_at=FAR)
    path = f"/admin/keys/{made['id']}"
    changed = await office.call("PATCH", path, {"name": "new", "scopes": ["read"], "expire_at": None})
    assert changed == {**{n: v for n, v in made.items() if n != "key"}, "name": "new", "scopes": ["read"], "expire_at": None}
    assert await office.opens(made["key"]) == 403
    assert await office.opens(made["key"], "GET", "/v1/documents") == 200
    changed = await office.call("PATCH", path, {"tags": [], "documents": ["a", "b", "a"]})
    assert (changed["tags"], changed["documents"], changed["name"]) == ([], ["a", "b"], "new")


async def test_a_rotated_key_has_two_secrets_until_the_old_one_is_ended(office: Office) -> None:
    made = await office.create()
    path = f"/admin/keys/{made['id']}"
    rotated = await office.call("POST", f"{path}/rotate")
    assert rotated["id"] == made["id"]
    assert rotated["key"] != made["key"]
    assert (rotated["secrets"], rotated["old_until"]) == (2, None)
    assert [await office.opens(key) for key in (made["key"], rotated["key"])] == [200, 200]
    refused = await office.call("POST", f"{path}/rotate", {}, status=409)
    assert f"POST /admin/keys/{made['id']}/finish" in refused["error"]["message"]
    assert (await office.call("POST", f"{path}/finish"))["secrets"] == 1
    assert [await office.opens(key) for key in (made["key"], rotated["key"])] == [401, 200]
    await office.call("POST", f"{path}/finish", status=409)


async def test_an_old_secret_is_kept_as_long_as_asked(tmp_path: Path) -> None:
    now = 1000.0
    async with Gateway(tmp_path, now=lambda: now).running() as gateway:
        office = Office(gateway, await gateway.new_key("operators", ("admin",)))
        made = await office.create()
        rotated = await office.call("POST", f"/admin/keys/{made['id']}/rotate", {"keep_s": 60})
        assert (rotated["secrets"], rotated["old_until"]) == (2, "1970-01-01T00:17:40Z")
        now = 1059.9
        assert [await office.opens(key) for key in (made["key"], rotated["key"])] == [200, 200]
        now = 1060.0
        assert [await office.opens(key) for key in (made["key"], rotated["key"])] == [401, 200]
        again = await office.call("POST", f"/admin/keys/{made['id']}/rotate", {"keep_s": 0})
        assert again["secrets"] == 1
        assert [await office.opens(key) for key in (rotated["key"], again["key"])] == [401, 200]


async def test_a_revoked_key_is_refused_for_good_and_still_listed(office: Office) -> None:
    made = await office.create()
    path = f"/admin/keys/{made['id']}"
    revoked = await office.call("DELETE", path)
    assert revoked["state"] == "revoked"
    assert await office.opens(made["key"]) == 401
    assert await office.call("DELETE", path) == revoked
    for method, more, body in (("PATCH", "", {"name": "x"}), ("POST", "/rotate", {}), ("POST", "/finish", {})):
        refused = await office.call(method, path + more, body, status=409)
        assert "revoked for good" in refused["error"]["message"]
    assert revoked in (await office.call("GET", "/admin/keys"))["data"]


async def test_an_expired_key_is_shown_as_such_and_can_be_given_time(tmp_path: Path) -> None:
    now = 1000.0
    async with Gateway(tmp_path, now=lambda: now).running() as gateway:
        office = Office(gateway, await gateway.new_key("operators", ("admin",)))
        made = await office.create(expire_at="1970-01-01T00:17:00Z")
        now = 1020.0
        assert (await office.call("GET", f"/admin/keys/{made['id']}"))["state"] == "expired"
        assert await office.opens(made["key"]) == 401
        await office.call("PATCH", f"/admin/keys/{made['id']}", {"expire_at": FAR})
        assert await office.opens(made["key"]) == 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tenant": "Tenant A"}, "can't be a tenant id"),
        ({"tenant": "*"}, "can't be a tenant id"),
        ({"scopes": ["documents"]}, "Unknown scopes: documents. There are: ask, read, write, share, admin."),
        ({"scopes": []}, "A key needs a scope"),
        ({"environment": "Live"}, "one to twelve of a-z"),
        ({"environment": "live\n"}, "one to twelve of a-z"),
        ({"environment": "abcdefghijklm"}, "one to twelve of a-z"),
        ({"expire_at": "2001-01-01T00:00:00Z"}, "can't expire in the past"),
        ({"expire_at": "2099-01-01T00:00:00"}, "expire_at"),
        ({"expire_at": "tomorrow"}, "expire_at"),
        ({"documents": ["../etc"]}, "../etc"),
        ({"tags": [""]}, "tags"),
        ({"tags": ["a\0b"]}, "tags"),
        ({"name": "x" * 201}, "name"),
        ({"nmae": "x"}, "nmae"),
        ({"secret_hash": "0"}, "secret_"),
    ],
)
async def test_what_can_not_be_is_refused_with_what_can(office: Office, fields: dict[str, Any], words: str) -> None:
    before = await office.call("GET", "/admin/keys")
    refused = await office.gateway.session.post(
        f"{office.gateway.admin_url}/admin/keys", json={"tenant": "t", **fields}, headers={"authorization": f"Bearer {office.key}"}
    )
    assert refused.status == 400
    assert words in (await refused.json())["error"]["message"]
    assert await office.call("GET", "/admin/keys") == before


async def test_a_change_of_nothing_and_one_of_no_key_are_said(office: Office) -> None:
    made = await office.create()
    refused = await office.call("PATCH", f"/admin/keys/{made['id']}", {}, status=400)
    assert "give one of name, scopes, expires_at, documents, tags" in refused["error"]["message"]
    for method, more, body in (("GET", "", None), ("PATCH", "", {"name": "x"}), ("POST", "/rotate", {}), ("DELETE", "", None)):
        refused = await office.call(method, f"/admin/keys/nowhere{more}", body, status=404)
        assert refused["error"]["message"] == "There is no key nowhere."


async def test_a_key_that_may_do_anything_for_its_tenant_may_not_administer(office: Office) -> None:
    strong = Office(office.gateway, await office.gateway.new_key("tenant-a"))
    refused = await strong.call("POST", "/admin/keys", {"tenant": "tenant-a", "scopes": ["admin"]}, status=403)
    assert "'admin'" in refused["error"]["message"]


async def test_the_tenants_listener_has_no_administration(office: Office) -> None:
    for path in ("/admin/keys", "/admin/audit"):
        async with office.gateway.request("GET", path, key=office.key) as response:
            assert response.status == 404
