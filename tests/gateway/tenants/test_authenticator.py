"""How long a recognised key is believed, and how often the store is asked for it."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from backends.records import ApiKey
from gateway.errors import Unauthorized
from gateway.tenants.authenticator import Authenticator, Principal
from gateway.tenants.keys import SCOPES, new_key, renewed
from router.documents import TenantId
from tests.fakes.gateway import SECRET, eventually
from tests.fakes.store import MemoryStore


class CountingStore(MemoryStore):
    looked_up = 0

    async def key(self, public_id: str) -> ApiKey | None:
        self.looked_up += 1
        return await super().key(public_id)


@dataclass
class Gate:
    """An Authenticator with one key, and a clock that the test sets."""

    store: CountingStore
    key: str
    record: ApiKey
    now: float = 100.0

    def __post_init__(self) -> None:
        self.authenticator = Authenticator(self.store, SECRET, clock=lambda: self.now, now=lambda: self.now)

    async def knock(self) -> Principal:
        return await self.authenticator.recognise(f"Bearer {self.key}")


@pytest.fixture
async def gate() -> Gate:
    store = CountingStore()
    await store.open()
    key, record = new_key(SECRET, TenantId("tenant-a"), name="test", scopes=SCOPES, now=0.0)
    await store.add_key(record)
    return Gate(store, key, record)


async def test_a_revoked_key_stops_within_a_second(gate: Gate) -> None:
    await gate.knock()
    await gate.store.change_key(gate.record.public_id, lambda key: replace(key, revoked_at=gate.now))
    gate.now += 0.49
    assert (await gate.knock()).key_id == gate.record.public_id
    gate.now += 0.51
    with pytest.raises(Unauthorized, match="revoked"):
        await gate.knock()


async def test_a_key_is_believed_for_a_second_without_the_store(gate: Gate) -> None:
    await gate.knock()
    gate.store.fault = "is away"
    gate.now += 0.99
    assert (await gate.knock()).tenant == "tenant-a"


async def test_a_wrong_secret_is_not_believed_because_the_right_one_was(gate: Gate) -> None:
    await gate.knock()
    body = f"kvs_live_{gate.record.public_id}_{'0' * 64}"
    forged = body + hashlib.sha256(body.encode()).hexdigest()[:8]
    with pytest.raises(Unauthorized, match="unknown"):
        await gate.authenticator.recognise(f"Bearer {forged}")


async def test_many_requests_at_once_look_a_key_up_once(gate: Gate) -> None:
    for _ in range(3):
        await asyncio.gather(*(gate.knock() for _ in range(50)))
        gate.now += 2
    assert gate.store.looked_up == 3


async def test_a_key_in_steady_use_is_looked_up_ahead(gate: Gate) -> None:
    await gate.knock()
    gate.now += 0.6
    await gate.knock()
    await eventually(lambda: gate.store.looked_up == 2)
    gate.now += 0.6  # the first look-up is too old by now, the one ahead is not
    gate.store.fault = "is away"
    assert (await gate.knock()).tenant == "tenant-a"


async def test_when_a_key_was_used_is_written_in_one_go_and_never_while_it_is_asked(gate: Gate) -> None:
    for _ in range(3):
        await gate.knock()
        gate.now += 1
    assert (await gate.store.key(gate.record.public_id)) == gate.record
    await gate.authenticator.save()
    assert (await gate.store.key(gate.record.public_id)) == replace(gate.record, last_used_at=102.0)
    gate.store.fault = "is away"
    await gate.authenticator.save()  # nothing to write
    assert gate.store.refused == 0


async def test_a_use_that_can_not_be_written_is_written_later_and_a_refused_key_has_none(gate: Gate) -> None:
    await gate.knock()
    gate.store.fault = "is away"
    await gate.authenticator.save()
    gate.store.fault = None
    await gate.authenticator.save()
    used = replace(gate.record, last_used_at=100.0)
    assert (await gate.store.key(gate.record.public_id)) == used
    await gate.store.change_key(gate.record.public_id, lambda key: replace(key, revoked_at=101.0))
    gate.now += 5
    with pytest.raises(Unauthorized):
        await gate.knock()
    await gate.authenticator.save()
    assert (await gate.store.key(gate.record.public_id)) == replace(used, revoked_at=101.0)


async def test_uses_are_written_at_the_end(gate: Gate) -> None:
    running = asyncio.create_task(gate.authenticator.run())
    await asyncio.sleep(0)
    await gate.knock()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await gate.store.key(gate.record.public_id)) == replace(gate.record, last_used_at=100.0)


@pytest.mark.parametrize("old_until", [None, 110.0])
async def test_two_secrets_are_good_until_the_old_one_ends(gate: Gate, old_until: float | None) -> None:
    new, record = renewed(SECRET, gate.record)
    record = replace(record, old_hash=gate.record.secret_hash, old_until=old_until)
    await gate.store.change_key(record.public_id, lambda _: record)
    gate.now = 109.0
    old, recent = await gate.knock(), await gate.authenticator.recognise(f"Bearer {new}")
    assert (old.key_id, old.viewer, old.scopes) == (recent.key_id, recent.viewer, recent.scopes)
    if old_until is None:
        await gate.store.change_key(record.public_id, lambda key: replace(key, old_hash=None))
    gate.now = 110.0
    with pytest.raises(Unauthorized):
        await gate.knock()
    assert await gate.authenticator.recognise(f"Bearer {new}") == recent
    assert not await gate.authenticator.still_good(old)
    assert await gate.authenticator.still_good(recent)


async def test_a_principal_shows_no_hash(gate: Gate) -> None:
    assert repr(await gate.knock()) == f"<Principal {gate.record.public_id} of tenant-a>"
