"""The four routes of a coordinator, spoken to as LMCache does."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from backends.lmcache.events import CacheEventReceiver
from router.chunk_tier import ChunkKey
from router.residency import Ledger
from tests.backends.lmcache.reports import HOST, STARTED, batch, body, in_ram, stored
from tests.backends.lmcache.samples import CHUNK_BYTES, KEYS, MODEL, SALT


@contextlib.asynccontextmanager
async def listening(receiver: CacheEventReceiver, port: int) -> AsyncIterator[aiohttp.ClientSession]:
    running = asyncio.ensure_future(receiver.run())
    try:
        for _ in range(500):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                break
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.fixture
async def http(receiver: CacheEventReceiver, port: int) -> AsyncIterator[aiohttp.ClientSession]:
    async with listening(receiver, port) as session:
        yield session


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
    async with listening(receiver, port):
        with pytest.raises(OSError, match="in use"):
            await CacheEventReceiver("127.0.0.1", port, ledger, model=MODEL).run()
    async with listening(receiver, port) as session:
        async with session.post("/instances", json=REGISTRATION) as response:
            assert response.status == 200
        assert repr(receiver) == f"<CacheEventReceiver 127.0.0.1:{port} of ['lmcache']>"
