"""The KV server's adapter against a small server that behaves as the real one was seen to, and real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from backends.base import Damage, DiskScan, KVServer, Memory
from backends.lmcache.server import LMCacheServer
from tests.backends.lmcache.fake_server import FakeLMCache, make
from tests.backends.lmcache.samples import CHUNK, CHUNK_BYTES, FRAME_BYTES, IDS, KEYS, MODEL, OTHER, SALT, write_chunks

CHUNKS = [(str(SALT), key.hex()) for key in KEYS]


def test_it_is_a_kv_server(lmcache: LMCacheServer) -> None:
    server: KVServer = lmcache
    assert server.name == "lmcache"
    assert server.keys(IDS) == KEYS
    assert server.keys(IDS[:-1]) == KEYS[:-1]


# --- files


async def test_the_disk_is_looked_at(lmcache: LMCacheServer, folder: Path) -> None:
    write_chunks(folder, KEYS[:3])
    found = await lmcache.scan()
    assert found.chunks == {SALT: dict.fromkeys(KEYS[:3], FRAME_BYTES)}
    assert await lmcache.on_disk(KEYS, SALT) == found.chunks[SALT]
    assert await lmcache.on_disk(KEYS, OTHER) == {}
    assert await lmcache.free_bytes()
    assert lmcache.sees_disk


async def test_damage_is_found_however_many_chunks_there_are(lmcache: LMCacheServer, folder: Path) -> None:
    ids = range(100 * CHUNK)
    paths = write_chunks(folder, lmcache.keys(ids))
    for number in (0, 15, 16, 99):
        paths[number].write_bytes(b"")
    paths[50].unlink()
    found = await lmcache.verify(lmcache.keys(ids), SALT)
    assert found.damaged == tuple(lmcache.keys(ids)[number] for number in (0, 15, 16, 99))
    assert found.read_bytes == 95 * FRAME_BYTES
    assert await lmcache.verify((), SALT) == Damage()


async def test_plain_chunks_are_compared_all_at_once(url: str, session: aiohttp.ClientSession, folder: Path) -> None:
    """The last of 17 alone would have nothing to be compared with."""
    lmcache = make(url, session, folder, key_path=None)
    keys = lmcache.keys(range(17 * CHUNK))
    write_chunks(folder, keys, plain=True)[16].write_bytes(b"cut")
    assert await lmcache.verify(keys, SALT) == Damage((keys[16],), 0)


async def test_half_written_files_are_removed(lmcache: LMCacheServer, folder: Path) -> None:
    left = write_chunks(folder, KEYS[:1], age_s=1000)[0]
    left.rename(left.with_suffix(".tmp"))
    partial = (await lmcache.scan()).partial
    assert partial == (left.with_suffix(".tmp").name,)
    assert await lmcache.remove_partial(partial) == 1
    assert await lmcache.scan() == DiskScan({}, {})


async def test_a_disk_that_can_not_be_seen_holds_nothing(unseen: LMCacheServer) -> None:
    assert not unseen.sees_disk
    assert await unseen.scan() == DiskScan({}, {})
    assert await unseen.free_bytes() is None
    assert await unseen.on_disk(KEYS, SALT) == {}
    assert await unseen.verify(KEYS, SALT) == Damage()
    assert await unseen.remove_partial(["x.tmp"]) == 0


# --- deleting


def named(numbers: range = range(4)) -> list[dict[str, Any]]:
    fields = {"model_name": MODEL, "kv_rank": 0x01000100, "object_group_id": 0, "cache_salt": SALT}
    return [{"chunk_hash_hex": KEYS[number].hex(), **fields} for number in numbers]


@pytest.mark.parametrize(
    ("options", "tier"), [({}, "all"), ({"disk": False}, "l1"), ({"ram": False}, "l2"), ({"ram": True, "disk": True}, "all")]
)
async def test_a_deletion_names_every_chunk_and_the_tier(
    lmcache: LMCacheServer, fake: FakeLMCache, options: dict[str, bool], tier: str
) -> None:
    await lmcache.delete(KEYS, SALT, **options)
    assert fake.deletions == [{"keys": named(), "tier": tier}]


async def test_nothing_is_asked_where_nothing_is_to_be_deleted(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    await lmcache.delete((), SALT)
    await lmcache.delete(KEYS, SALT, ram=False, disk=False)
    assert fake.deletions == []


async def test_a_long_documents_deletion_is_sent_in_parts(unseen: LMCacheServer, fake: FakeLMCache) -> None:
    keys = unseen.keys(range(10_001 * CHUNK))
    await unseen.delete(keys, SALT)
    assert len(fake.deletions) > 1
    assert max(len(deletion["keys"]) for deletion in fake.deletions) <= 10_000
    assert [key["chunk_hash_hex"] for deletion in fake.deletions for key in deletion["keys"]] == [key.hex() for key in keys]


async def test_chunks_in_use_are_waited_for(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    fake.ram.update(CHUNKS)
    fake.locked = {CHUNKS[1]: 2}
    await lmcache.delete(KEYS, SALT)
    assert fake.ram == set()
    assert len(fake.deletions) == 3


async def test_chunks_that_stay_in_use_are_an_os_error(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    fake.ram.update(CHUNKS)
    fake.locked = {CHUNKS[1]: 10**6}
    with pytest.raises(OSError, match="LMCache did not delete: 1 chunks have been in use"):
        await lmcache.delete(KEYS, SALT)


async def test_files_that_the_server_left_are_an_os_error(lmcache: LMCacheServer, folder: Path) -> None:
    """It answers "ok" also where it could not unlink."""
    write_chunks(folder, KEYS[:3])
    with pytest.raises(OSError, match="3 of 4 chunks are still on disk"):
        await lmcache.delete(KEYS, SALT)
    await lmcache.delete(KEYS, SALT, disk=False)


@pytest.mark.parametrize(
    ("status", "answer"), [(503, None), (200, {"ok": False, "error": "locked"}), (200, {}), (502, "Bad Gateway"), (200, "ok")]
)
async def test_a_deletion_that_was_not_done_is_an_os_error(
    lmcache: LMCacheServer, fake: FakeLMCache, status: int, answer: Any
) -> None:
    fake.status, fake.answer = status, answer
    with pytest.raises(OSError, match="LMCache"):
        await lmcache.delete(KEYS, SALT)


# --- how it is


async def test_memory_is_what_the_server_says(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    fake.ram.update(CHUNKS[:3])
    assert await lmcache.memory() == Memory(used_bytes=3 * CHUNK_BYTES, capacity_bytes=100 * CHUNK_BYTES)


@pytest.mark.parametrize(("status", "answer"), [(503, None), (200, {}), (200, {"storage_manager": {}}), (200, "fine")])
async def test_memory_that_is_not_told_is_unknown(lmcache: LMCacheServer, fake: FakeLMCache, status: int, answer: Any) -> None:
    fake.status, fake.answer = status, answer
    assert await lmcache.memory() is None


async def test_a_healthy_server_has_no_problem(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    assert await lmcache.check() is None
    fake.status = 503
    assert await lmcache.check() == "its /healthcheck answers 503"


async def test_a_server_that_is_down(down: LMCacheServer, folder: Path) -> None:
    assert (await down.check() or "").startswith("can't be reached at http://127.0.0.1:")
    assert await down.memory() is None
    with pytest.raises(OSError, match="DELETE /cache/objects"):
        await down.delete(KEYS, SALT)
    with pytest.raises(OSError, match="POST /cache/prefetches"):
        await down.prefetch(IDS, SALT)
    write_chunks(folder)
    assert len(await down.on_disk(KEYS, SALT)) == 4


def test_it_says_where_it_is(lmcache: LMCacheServer, unseen: LMCacheServer) -> None:
    assert repr(lmcache).startswith("<LMCacheServer lmcache http://127.0.0.1:")
    assert "encrypted" in repr(lmcache)
    assert repr(unseen).endswith(" None>")
