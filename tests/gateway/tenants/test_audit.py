"""The audit log: who did what, of what, when and from where; with no secret in it, and never less than before."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from backends.base import Store
from backends.store import sql_store
from gateway.sections import Ingestion
from gateway.tenants.audit import REFUSALS_EVERY_S
from tests.fakes.gateway import Gateway
from tests.gateway.tenants.test_admin_keys import Office

LEASE = "# Lease\n\nThe deposit is 2,400 euros."


@pytest.fixture
async def office(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setattr("gateway.tenants.authenticator.CACHE_S", 0.0)
    return Office(gateway, await gateway.new_key("operators", ("admin",)))


def id_of(key: str) -> str:
    return key.split("_")[2]


async def log(office: Office, query: str = "") -> list[Any]:
    return list((await office.call("GET", f"/admin/audit{query}"))["data"])


async def test_what_is_done_with_keys_is_told_with_who_and_from_where(office: Office) -> None:
    made = await office.create(name="for CI", tags=["open"])
    path = f"/admin/keys/{made['id']}"
    await office.call("PATCH", path, {"scopes": ["read"]})
    rotated = await office.call("POST", f"{path}/rotate", {"keep_s": 60})
    await office.call("POST", f"{path}/finish")
    await office.call("DELETE", path)
    await office.call("DELETE", path)
    entries = (await log(office))[::-1]
    assert [entry["action"] for entry in entries] == ["key.create", "key.change", "key.rotate", "key.finish", "key.revoke"]
    for entry in entries:
        assert (entry["actor"], entry["origin"]) == (id_of(office.key), "127.0.0.1")
        assert (entry["target"], entry["tenant"]) == (made["id"], "tenant-b")
        assert entry["at"] > 1.6e9
    assert [entry["number"] for entry in entries] == [1, 2, 3, 4, 5]
    assert (entries[0]["details"]["name"], entries[0]["details"]["tags"]) == ("for CI", ["open"])
    assert [entry["details"] for entry in entries[1:]] == [{"scopes": ["read"]}, {"keep_s": 60}, {}, {}]
    for key in (made["key"], rotated["key"]):
        assert key.split("_")[3] not in str(entries)


async def test_what_is_done_with_documents_is_told_and_nothing_of_their_text(office: Office) -> None:
    gateway = office.gateway
    await gateway.add(LEASE, id="lease")
    await gateway.json("POST", "/v1/documents", json={"id": "lease", "text": LEASE, "summary": "As it was."})
    await gateway.add(LEASE + " Or more.", id="lease")
    await gateway.json("PATCH", "/v1/documents/lease", json={"summary": "Rent."})
    await gateway.json("DELETE", "/v1/documents/lease")
    await gateway.add(LEASE, id="rules", shared=True)
    entries = (await log(office, "?tenant=tenant-a"))[::-1]
    assert [(entry["action"], entry["target"]) for entry in entries] == [
        ("document.add", "lease"),
        ("document.replace", "lease"),
        ("document.replace", "lease"),
        ("document.change", "lease"),
        ("document.remove", "lease"),
        ("document.add", "rules"),
    ]
    assert {(entry["actor"], entry["origin"]) for entry in entries} == {(id_of(gateway.key), "127.0.0.1")}
    assert [entry["details"] for entry in entries] == [{}, {}, {}, {}, {}, {"shared": True}]


async def test_a_document_in_volumes_is_told_of_once(tmp_path: Path) -> None:
    long = "\n\n".join(f"# Part {number}\n\n{'A sentence of this part. ' * 60}" for number in range(12))
    async with Gateway(tmp_path, ingestion=Ingestion(answer_reserve_tokens=512, max_volumes=20)).running() as gateway:
        office = Office(gateway, await gateway.new_key("operators", ("admin",)))
        added = await gateway.add(long, id="long")
        assert len((await gateway.json("GET", "/v1/documents/long"))["volumes"]) > 1, added
        assert [entry["action"] for entry in await log(office)] == ["document.add"]


async def test_what_was_refused_or_failed_is_not_told_as_done(office: Office) -> None:
    gateway = office.gateway
    await gateway.json("POST", "/v1/documents", json={"text": "", "id": "empty"}, status=400)
    await gateway.json("PATCH", "/v1/documents/nowhere", json={"title": "x"}, status=404)
    await office.call("POST", "/admin/keys", {"tenant": "*"}, status=400)
    gateway.store.fault = "is away"  # type: ignore[attr-defined]
    await office.call("GET", "/admin/audit", status=503)
    gateway.store.fault = None  # type: ignore[attr-defined]
    assert await log(office) == []


async def test_refused_calls_of_the_operators_are_told_with_who_tried(office: Office) -> None:
    gateway = office.gateway
    await Office(gateway, gateway.key).call("GET", "/admin/keys", status=403)
    await Office(gateway, "hunter2").call("DELETE", "/admin/keys/x", status=401)
    revoked = await gateway.new_key("operators", ("admin",))
    await gateway.revoke(revoked)
    await Office(gateway, revoked).call("POST", "/admin/keys", {}, status=401)
    forbidden, malformed, unknown = (await log(office))[::-1]
    assert {entry["action"] for entry in (forbidden, malformed, unknown)} == {"admin.refused"}
    assert (forbidden["actor"], forbidden["target"]) == (id_of(gateway.key), "GET /admin/keys")
    assert "lacks the scope 'admin'" in forbidden["details"]["reason"]
    assert (malformed["actor"], malformed["target"], malformed["origin"]) == ("nobody", "DELETE /admin/keys/x", "127.0.0.1")
    assert "hunter2" not in str(malformed)
    assert (unknown["actor"], unknown["details"]["claimed"]) == ("nobody", id_of(revoked))
    assert revoked.split("_")[3] not in str(unknown)


async def test_whoever_knocks_on_and_on_does_not_fill_the_log(tmp_path: Path) -> None:
    now = 1000.0
    async with Gateway(tmp_path, now=lambda: now).running() as gateway:
        office = Office(gateway, await gateway.new_key("operators", ("admin",)))
        knocking = Office(gateway, "hunter2")
        for _ in range(20):
            await knocking.call("GET", "/admin/keys", status=401)
        assert len(await log(office)) == 1
        now += REFUSALS_EVERY_S
        await knocking.call("GET", "/admin/keys", status=401)
        newest = (await log(office))[0]
        assert newest["details"]["unwritten_before"] == 19


async def test_a_refusal_stands_also_where_it_can_not_be_written(office: Office) -> None:
    gateway = office.gateway
    gateway.store.fault = "is away"  # type: ignore[attr-defined]
    await Office(gateway, "hunter2").call("GET", "/admin/keys", status=401)
    gateway.store.fault = None  # type: ignore[attr-defined]


async def test_the_log_is_asked_by_time_tenant_and_number(tmp_path: Path) -> None:
    now = 0.0
    async with Gateway(tmp_path, now=lambda: now).running() as gateway:
        office = Office(gateway, await gateway.new_key("operators", ("admin",)))
        for number in range(6):
            now = number * 60.0
            await office.create(tenant=f"tenant-{number % 2}")

        async def numbers(query: str) -> list[int]:
            return [entry["number"] for entry in await log(office, query)]

        assert await numbers("") == [6, 5, 4, 3, 2, 1]
        assert await numbers("?limit=2") == [6, 5]
        assert await numbers("?limit=2&before=5") == [4, 3]
        assert await numbers("?since=1970-01-01T00:03:00Z") == [6, 5, 4]
        assert await numbers("?since=1970-01-01T00:03:00") == [6, 5, 4]
        assert await numbers("?tenant=tenant-1") == [6, 4, 2]
        for bad in ("?limit=0", "?limit=100000", "?since=yesterday", "?before=x"):
            await office.call("GET", f"/admin/audit{bad}", status=400)


def test_no_code_changes_or_removes_an_entry() -> None:
    """The store has two ways to the audit log: to append, and to read. (What the database does about others: test_migrations.py.)"""
    assert [name for name in vars(Store) if "audit" in name or "note" in name] == ["note", "audit"]
    source = inspect.getsource(sql_store)
    assert "insert(audit_log)" in source
    assert not any(f"{verb}(audit_log)" in source for verb in ("update", "delete"))
