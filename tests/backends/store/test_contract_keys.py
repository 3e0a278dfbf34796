"""What every `Store` does with keys and the audit log: the fake that other tests use, SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from backends.base import Store
from backends.records import ApiKey
from router.documents import DocumentId, Owner
from router.errors import Conflict
from tests.backends.store.samples import CONTENT, document, entry, key, version

# --- keys


async def test_keys(store: Store) -> None:
    plain, bare = key("k1"), key("k2", scopes=(), name="")
    await store.add_key(plain)
    await store.add_key(bare)
    assert await store.key("k1") == plain
    assert await store.key("k3") is None
    assert sorted(await store.keys(), key=lambda found: found.public_id) == [plain, bare]


async def test_a_public_id_is_taken_once(store: Store) -> None:
    await store.add_key(key())
    with pytest.raises(Conflict):
        await store.add_key(key(name="thief"))
    assert await store.keys() == [key()]


async def test_a_key_is_what_was_made_of_it_last(store: Store) -> None:
    await store.add_key(key())
    full = key(
        environment="test",
        scopes=("ask", "admin"),
        expires_at=9.5,
        revoked_at=10.5,
        last_used_at=8.5,
        documents=(DocumentId("lease"),),
        tags=("flat", "ünique"),
        old_hash="0d",
        old_until=7.5,
    )
    assert await store.change_key("k1", lambda found: full if found == key() else found) == full
    assert await store.key("k1") == full
    assert await store.change_key("k2", lambda found: found) is None


async def test_a_change_of_a_key_that_is_refused_changes_nothing(store: Store) -> None:
    def refuse(_: ApiKey) -> ApiKey:
        raise Conflict("Not now.")

    await store.add_key(key())
    with pytest.raises(Conflict, match="Not now"):
        await store.change_key("k1", refuse, entry())
    assert (await store.key("k1"), await store.audit(limit=9)) == (key(), [])


async def test_no_change_of_a_key_is_lost_among_many_at_once(store: Store) -> None:
    await store.add_key(key(scopes=()))
    await asyncio.gather(
        *(store.change_key("k1", lambda found, n=n: replace(found, scopes=(*found.scopes, str(n)))) for n in range(20))  # type: ignore[misc]
    )
    found = await store.key("k1")
    assert found is not None
    assert sorted(found.scopes) == sorted(map(str, range(20)))


async def test_when_keys_were_used_is_written_for_those_that_are_there(store: Store) -> None:
    await store.add_key(key("k1"))
    await store.add_key(key("k2"))
    await store.keys_used({"k1": 20.5, "gone": 21.5})
    assert sorted(await store.keys(), key=lambda found: found.public_id) == [key("k1", last_used_at=20.5), key("k2")]


# --- the audit log


async def test_an_entry_is_written_with_what_it_tells_of(store: Store) -> None:
    told = [entry(at=float(n), action=f"a{n}", details={"n": n, "of": ["x\\y", None]}) for n in range(7)]
    await store.add_key(key(), told[0])
    await store.change_key("k1", lambda found: replace(found, name="new"), told[1])
    await store.put_document(document(), told[2])
    await store.add_version(document(current=version()), version(), CONTENT, told[3])
    await store.remove_document(Owner("acme"), DocumentId("lease"), told[4])
    await store.put_state("routing:acme", b"{}", 1.0, told[5])
    await store.note(told[6])
    found = await store.audit(limit=9)
    assert [replace(one, number=0) for one in found] == told[::-1]
    assert [one.number for one in found] == sorted((one.number for one in found), reverse=True)


async def test_what_is_not_done_is_not_in_the_audit_log(store: Store) -> None:
    await store.add_key(key())
    with pytest.raises(Conflict):
        await store.add_key(key(), entry())
    with pytest.raises(Conflict):
        await store.put_document(document(current=version("nowhere")), entry())
    with pytest.raises(Conflict):
        await store.add_version(document(current=version(), incoming=version("v0")), version(), CONTENT, entry())
    assert await store.change_key("k2", lambda found: found, entry()) is None
    assert await store.audit(limit=9) == []


async def test_the_audit_log_is_read_by_time_tenant_and_number(store: Store) -> None:
    for n, tenant in enumerate(("acme", "globex", "acme", "")):
        await store.note(entry(at=float(n), tenant=tenant, action=str(n)))

    async def actions(**asked: Any) -> list[str]:
        return [one.action for one in await store.audit(**{"limit": 9, **asked})]

    assert await actions() == ["3", "2", "1", "0"]
    assert await actions(limit=2) == ["3", "2"]
    assert await actions(since=2.0) == ["3", "2"]
    assert await actions(tenant="acme") == ["2", "0"]
    third = (await store.audit(limit=2))[-1].number
    assert await actions(before=third) == ["1", "0"]
