"""LMCache's reports, as the real server was heard to send them, into beliefs about a host's RAM and disk."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import unused_port

from backends.lmcache.events import CacheEventReceiver
from router.chunk_tier import ChunkKey
from router.documents import Salt
from router.residency import Ledger
from tests.backends.lmcache.samples import CHUNK_BYTES, FRAME_BYTES, KEYS, MODEL, OTHER, SALT

HOST = "lmcache"
STARTED = 1795506161


def entry(key: ChunkKey, salt: str = SALT, *, size_bytes: int = 0, **changes: Any) -> dict[str, Any]:
    named = {"chunk_hash_hex": key.hex(), "model_name": MODEL, "kv_rank": 0x01000100, "object_group_id": 0, "cache_salt": salt}
    return {"key": named | changes, "size_bytes": size_bytes, "token_ids": [7] * 256 if size_bytes else [], "token_offset": 0}


def batch(seq: int, event: str, tier: str = "l1", entries: Sequence[dict[str, Any]] = (), **changes: Any) -> dict[str, Any]:
    """As `CacheEventBatch` of LMCache 0.5.6."""
    usual: dict[str, Any] = {"instance_id": HOST, "incarnation": STARTED, "seq": seq, "event_type": event, "tier": tier}
    usual |= {"backend": "dram" if tier == "l1" else "fs", "entries": list(entries), "shared": False, "ts": 1795506162.8}
    return usual | {"capacity_bytes": 0, "capacity_revision": 0} | changes


def stored(seq: int, keys: Sequence[ChunkKey], tier: str = "l1", salt: str = SALT, **changes: Any) -> dict[str, Any]:
    size = CHUNK_BYTES if tier == "l1" else FRAME_BYTES
    return batch(seq, "store", tier, [entry(key, salt, size_bytes=size) for key in keys], **changes)


def dropped(seq: int, keys: Sequence[ChunkKey], tier: str = "l1", **changes: Any) -> dict[str, Any]:
    return batch(seq, "delete", tier, [entry(key) for key in keys], **changes)


def body(*batches: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"batches": batches})


@pytest.fixture
def ledger() -> Ledger:
    return Ledger({"worker-1": HOST, "worker-2": "far"})


@pytest.fixture
def port() -> int:
    return unused_port()


@pytest.fixture
async def receiver(ledger: Ledger, port: int) -> CacheEventReceiver:
    return CacheEventReceiver("127.0.0.1", port, ledger, model=MODEL, silent_after_s=10)


@contextlib.asynccontextmanager
async def listening(receiver: CacheEventReceiver) -> AsyncIterator[aiohttp.ClientSession]:
    running = asyncio.ensure_future(receiver.run())
    try:
        async with aiohttp.ClientSession() as session:
            yield session
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.fixture
async def http(receiver: CacheEventReceiver, port: int) -> AsyncIterator[aiohttp.ClientSession]:
    async with listening(receiver):
        await asyncio.sleep(0.05)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session


def in_ram(ledger: Ledger, host: str = HOST, salt: Salt = SALT) -> int:
    ledger.check()
    return ledger.ram(host).run(salt, KEYS)


def on_disk(ledger: Ledger, host: str = HOST) -> int:
    return ledger.disk(host).run(SALT, KEYS)


# --- what a report says


async def test_what_is_stored_in_ram_is_in_ram(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    assert receiver.receive(body(batch(1, "config"), stored(2, KEYS[:3]))) == {"applied": 2, "duplicates": 0, "stale": 0}
    assert (in_ram(ledger), on_disk(ledger)) == (3, 0)
    assert ledger.ram(HOST).size_bytes(SALT) == 3 * CHUNK_BYTES


async def test_what_is_stored_on_disk_is_on_disk(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS[:2], "l2")))
    assert (in_ram(ledger), on_disk(ledger)) == (0, 2)
    assert ledger.disk(HOST).size_bytes(SALT) == 2 * FRAME_BYTES


async def test_what_is_dropped_is_gone_from_that_tier(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS), stored(2, KEYS, "l2"), dropped(3, KEYS[2:]), dropped(4, KEYS[3:], "l2")))
    assert (in_ram(ledger), on_disk(ledger)) == (2, 3)


async def test_events_are_applied_in_order(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS), dropped(2, KEYS), stored(3, KEYS[:1])))
    receiver.receive(body(dropped(4, KEYS[:1]), stored(5, KEYS[:2])))
    assert in_ram(ledger) == 2


async def test_salts_and_hosts_are_kept_apart(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS[:1]), stored(2, KEYS[:2], salt=OTHER), stored(1, KEYS[:3], instance_id="far")))
    assert (in_ram(ledger), in_ram(ledger, salt=OTHER), in_ram(ledger, "far")) == (1, 2, 3)


@pytest.mark.parametrize("tier", ["l1", "l2"])
async def test_an_access_says_nothing(receiver: CacheEventReceiver, ledger: Ledger, tier: str) -> None:
    """LMCache reports it of every chunk of a question that ends, of those that it never stored too."""
    receiver.receive(body(stored(1, KEYS[:1]), batch(2, "access", tier, [entry(key) for key in KEYS], backend="")))
    assert (in_ram(ledger), on_disk(ledger)) == (1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_hash_hex": KEYS[0].hex() + "00" * 16},  # where it encrypts
        {"chunk_hash_hex": "x" * 64},
        {"chunk_hash_hex": ""},
        {"model_name": "/models/other"},
        {"kv_rank": 0x02000200},
        {"object_group_id": 1},
        {"cache_salt": ""},
    ],
)
async def test_other_keys_are_no_chunks(receiver: CacheEventReceiver, ledger: Ledger, changes: dict[str, Any]) -> None:
    other = entry(KEYS[0], size_bytes=9) | {"key": entry(KEYS[0])["key"] | changes}
    receiver.receive(body(batch(1, "store", entries=[other, entry(KEYS[1], size_bytes=9)])))
    assert ledger.ram(HOST).total_bytes == 9
    receiver.receive(body(stored(2, KEYS), batch(3, "delete", entries=[other])))
    assert in_ram(ledger) == 4


# --- the sequence


@pytest.mark.parametrize("seq", [1, 2])
async def test_a_batch_that_comes_again_is_ignored(receiver: CacheEventReceiver, ledger: Ledger, seq: int) -> None:
    receiver.receive(body(stored(1, KEYS[:2]), dropped(2, KEYS[1:2])))
    assert receiver.receive(body(stored(seq, KEYS)))["duplicates"] == 1
    assert in_ram(ledger) == 1
    assert receiver.receive(body(stored(3, KEYS)))["applied"] == 1


async def test_a_gap_forgets_what_was_believed_of_the_ram_and_goes_on_from_there(
    receiver: CacheEventReceiver, ledger: Ledger
) -> None:
    receiver.receive(body(stored(1, KEYS[:2]), stored(2, KEYS, "l2"), stored(1, KEYS, instance_id="far")))
    receiver.receive(body(stored(4, KEYS[1:2])))
    assert (in_ram(ledger), ledger.ram(HOST).total_bytes, on_disk(ledger)) == (0, CHUNK_BYTES, 4)
    receiver.receive(body(stored(5, KEYS[:1])))
    assert (in_ram(ledger), in_ram(ledger, "far")) == (2, 4)


async def test_a_server_that_started_anew_has_an_empty_ram(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS), stored(2, KEYS, "l2")))
    receiver.receive(body(stored(1, KEYS[:1], incarnation=STARTED + 60)))
    assert (in_ram(ledger), on_disk(ledger)) == (1, 4)
    assert receiver.receive(body(stored(3, KEYS)))["stale"] == 1
    assert in_ram(ledger) == 1


async def test_a_gateway_that_started_anew_begins_where_the_server_is(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(500, KEYS[:2])))
    receiver.receive(body(stored(501, KEYS[2:])))
    assert in_ram(ledger) == 4


async def test_a_server_that_nobody_knows_is_not_believed(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    assert receiver.receive(body(stored(1, KEYS, instance_id="stranger")))["stale"] == 1
    assert ledger.hosts == (HOST, "far")


async def test_a_silent_server_is_gone(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS), stored(2, KEYS, "l2")))
    now = asyncio.get_running_loop().time()
    receiver.forget_silent(now + 9)
    assert in_ram(ledger) == 4
    receiver.forget_silent(now + 11)
    assert (in_ram(ledger), on_disk(ledger)) == (0, 4)
    receiver.receive(body(stored(3, KEYS[:1])))
    assert in_ram(ledger) == 1


# --- HTTP, as LMCache speaks it


REGISTRATION = {"instance_id": HOST, "ip": "127.0.0.1", "http_port": 8180, "metadata": {}, "p2p_advertised_url": "", "mq_port": 0}


async def test_a_server_registers_beats_reports_and_leaves(http: aiohttp.ClientSession, ledger: Ledger) -> None:
    async with http.post("/instances", json=REGISTRATION) as response:
        assert (response.status, await response.json()) == (200, {"instance_id": HOST, "re_registered": False})
    async with http.put(f"/instances/{HOST}/heartbeat") as response:
        assert (response.status, await response.json()) == (200, {"instance_id": HOST})
    async with http.post("/events", data=body(stored(1, KEYS))) as response:
        assert (response.status, await response.json()) == (200, {"applied": 1, "duplicates": 0, "stale": 0})
    assert in_ram(ledger) == 4
    async with http.delete(f"/instances/{HOST}") as response:
        assert response.status == 204
    assert in_ram(ledger) == 0
    async with http.delete(f"/instances/{HOST}") as response:
        assert response.status == 204


async def test_a_server_that_is_not_registered_is_told_to(http: aiohttp.ClientSession, ledger: Ledger) -> None:
    """After a restart of the gateway. What it reported meanwhile stays."""
    async with http.post("/events", data=body(stored(77, KEYS))) as response:
        assert response.status == 200
    async with http.put(f"/instances/{HOST}/heartbeat") as response:
        assert response.status == 404
    async with http.post("/instances", json=REGISTRATION) as response:
        assert (await response.json())["re_registered"] is False
    assert in_ram(ledger) == 4


async def test_another_process_takes_the_place_of_one_that_was_killed(http: aiohttp.ClientSession, ledger: Ledger) -> None:
    for again in (False, True):
        async with http.post("/instances", json=REGISTRATION) as response:
            assert (await response.json())["re_registered"] is again
        assert in_ram(ledger) == 0
        async with http.post("/events", data=body(stored(1, KEYS, incarnation=STARTED + again))) as response:
            assert (await response.json())["applied"] == 1
        assert in_ram(ledger) == 4


async def test_a_server_of_another_name_is_turned_away(http: aiohttp.ClientSession, ledger: Ledger) -> None:
    async with http.post("/instances", json=REGISTRATION | {"instance_id": "stranger"}) as response:
        assert (response.status, await response.text()) == (403, "--instance-id must be one of lmcache, far")
    assert ledger.hosts == (HOST, "far")


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        msgspec.json.encode({"batches": [{"seq": 1}]}),
        body(batch(1, "moved")),
        body(batch(1, "store", "l3")),
        body(batch(1, "store", entries=[{"key": {"chunk_hash_hex": 7}}])),
    ],
)
async def test_what_can_not_be_read_is_refused_and_ignored(http: aiohttp.ClientSession, ledger: Ledger, garbage: bytes) -> None:
    async with http.post("/events", data=body(stored(1, KEYS[:2]))) as response:
        assert response.status == 200
    async with http.post("/events", data=garbage) as response:
        assert response.status == 400
    async with http.post("/instances", data=garbage) as response:
        assert response.status == 400
    async with http.post("/events", data=body(stored(2, KEYS[2:]))) as response:
        assert response.status == 200
    assert in_ram(ledger) == 4


async def test_a_long_documents_report_is_taken(http: aiohttp.ClientSession, ledger: Ledger) -> None:
    """2,000 chunks with their tokens: 2 MB and more."""
    keys = [ChunkKey(number.to_bytes(32, "big")) for number in range(2000)]
    report = body(stored(1, keys))
    assert len(report) > 2**20
    async with http.post("/events", data=io.BytesIO(report)) as response:
        assert response.status == 200
    assert ledger.ram(HOST).size_bytes(SALT) == 2000 * CHUNK_BYTES


async def test_an_address_that_is_taken_is_an_error_and_free_again_afterwards(
    receiver: CacheEventReceiver, ledger: Ledger, port: int
) -> None:
    async with listening(receiver):
        await asyncio.sleep(0.05)
        with pytest.raises(OSError, match="in use"):
            await CacheEventReceiver("127.0.0.1", port, ledger, model=MODEL).run()
    async with listening(receiver) as session:
        await asyncio.sleep(0.05)
        async with session.post(f"http://127.0.0.1:{port}/instances", json=REGISTRATION) as response:
            assert response.status == 200
        assert repr(receiver) == f"<CacheEventReceiver 127.0.0.1:{port} of ['lmcache']>"
