"""Bringing a prefix from disk to RAM: as far as it goes without a gap, whatever is missing, damaged or too large at once."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.lmcache.server import LMCacheServer
from tests.backends.lmcache.fake_server import FakeLMCache, make
from tests.backends.lmcache.samples import CHUNK, IDS, KEYS, MODEL, OTHER, SALT

CHUNKS = [(str(SALT), key.hex()) for key in KEYS]


async def test_a_prefix_is_brought_into_ram(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    fake.disk.update(CHUNKS)
    assert await lmcache.prefetch(IDS, SALT) == 4
    assert fake.ram == set(CHUNKS)
    assert fake.prefetches == [{"model_name": MODEL, "world_size": 1, "token_ids": list(IDS), "cache_salt": SALT}]


@pytest.mark.parametrize("ids", [list(IDS), np.array(IDS, np.uint32), np.array(IDS, "<u4")])
async def test_ids_come_as_list_or_array(lmcache: LMCacheServer, fake: FakeLMCache, ids: Any) -> None:
    fake.ram.update(CHUNKS)
    assert await lmcache.prefetch(ids, SALT) == 4


@pytest.mark.parametrize("gap", range(5))
async def test_what_stands_behind_a_gap_does_not_count(lmcache: LMCacheServer, fake: FakeLMCache, gap: int) -> None:
    fake.disk.update(chunk for number, chunk in enumerate(CHUNKS) if number != gap)
    assert await lmcache.prefetch(IDS, SALT) == gap
    assert fake.ram >= set(CHUNKS[:gap])


async def test_another_salts_chunks_do_not_count(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    fake.disk.update((str(OTHER), key.hex()) for key in KEYS)
    assert await lmcache.prefetch(IDS, SALT) == 0


async def test_less_than_a_chunk_is_nothing_to_bring(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    assert await lmcache.prefetch(IDS[:3], SALT) == 0
    assert await lmcache.prefetch((), SALT) == 0
    assert fake.prefetches == []


async def test_a_long_prefix_is_sent_whole(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    ids = list(range(250_000))
    fake.answer = {"chunks": 0, "status": "noop"}
    assert await lmcache.prefetch(ids, SALT) == 0
    assert fake.prefetches[0]["token_ids"] == ids


@settings(max_examples=40)
@given(
    in_ram=st.sets(st.integers(0, 19)),
    on_disk=st.sets(st.integers(0, 19)) | st.just(set(range(20))),
    damaged=st.sets(st.integers(0, 19), max_size=2),
    loads_at_once=st.integers(1, 20),
)
async def test_all_that_can_be_had_without_a_gap_is_brought_into_ram(
    in_ram: set[int], on_disk: set[int], damaged: set[int], loads_at_once: int
) -> None:
    """Whatever is missing or damaged, and however little room there is to load into."""
    fake, ids = FakeLMCache(), range(20 * CHUNK)
    fake.polls = 0
    fake.loads_at_once = loads_at_once
    async with TestServer(fake.app) as server, aiohttp.ClientSession() as session:
        lmcache = make(str(server.make_url("/")), session, None)
        chunks = [(str(SALT), key.hex()) for key in lmcache.keys(ids)]
        fake.ram, fake.disk, fake.damaged = ({chunks[number] for number in each} for each in (in_ram, on_disk, damaged))
        can_be_had = in_ram | on_disk - damaged
        expected = next((number for number in range(20) if number not in can_be_had), 20)
        assert await lmcache.prefetch(ids, SALT) == expected
        assert fake.ram >= set(chunks[:expected])
        assert len(fake.prefetches) <= 30


async def test_a_prefetch_that_takes_too_long_is_an_os_error(url: str, session: aiohttp.ClientSession, fake: FakeLMCache) -> None:
    fake.disk.update(CHUNKS)
    fake.polls = 10**6
    with pytest.raises(TimeoutError):
        await make(url, session, None, prefetch_s=0.1).prefetch(IDS, SALT)


async def test_a_prefetch_before_a_worker_is_there_is_an_os_error(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    fake.status = 503
    with pytest.raises(OSError, match="POST /cache/prefetches with 503"):
        await lmcache.prefetch(IDS, SALT)


async def test_a_prefetch_that_the_server_forgot_is_an_os_error(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    """It restarted while it was asked."""
    fake.answer = {"request_id": "unheard", "chunks": 4, "status": "submitted"}
    with pytest.raises(OSError, match="404"):
        await lmcache.prefetch(IDS, SALT)


async def test_a_cancelled_prefetch_ends(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    fake.disk.update(CHUNKS)
    fake.polls = 10**6
    asked = asyncio.create_task(lmcache.prefetch(IDS, SALT))
    await asyncio.sleep(0.05)
    assert not asked.done()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
