"""LMCache's keys, files and HTTP: against a small server that speaks as the real one does, and real files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.lmcache import LMCacheServer, chunk_hashes, file_name, kv_bytes_a_token
from router.documents import Salt
from router.residency import Held

CHUNK = 4
CHUNK_BYTES = 1000
SALT = Salt("5a17")
MODEL = "/models/smollm2"
IDS = range(100, 116)
"""Four chunks."""


class FakeLMCache:
    """Its HTTP side: RAM usage by salt, deletions as they came."""

    def __init__(self) -> None:
        self.ram_bytes: dict[str, int] = {}
        self.deletions: list[dict[str, Any]] = []
        self.status = 200
        self.answer: dict[str, Any] | str = {"ok": True, "deleted": 0}
        self.app = web.Application(client_max_size=2**26)
        self.app.router.add_get("/healthcheck", self.health)
        self.app.router.add_get("/quota/{salt}", self.quota)
        self.app.router.add_delete("/cache/objects", self.delete)

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({}, status=self.status)

    async def quota(self, request: web.Request) -> web.Response:
        usage = self.ram_bytes.get(request.match_info["salt"], 0) / 2**30
        return web.json_response({"current_usage_gb": usage}, status=self.status)

    async def delete(self, request: web.Request) -> web.Response:
        self.deletions.append(await request.json())
        if isinstance(self.answer, str):
            return web.Response(text=self.answer, status=self.status)
        return web.json_response(self.answer, status=self.status)


@pytest.fixture
def fake() -> FakeLMCache:
    return FakeLMCache()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
async def url(fake: FakeLMCache) -> AsyncIterator[str]:
    async with TestServer(fake.app) as server:
        yield str(server.make_url("/"))


@pytest.fixture
def lmcache(url: str, session: aiohttp.ClientSession, tmp_path: Path) -> LMCacheServer:
    return LMCacheServer(url, session, model=MODEL, chunk_tokens=CHUNK, disk_path=tmp_path)


@pytest.fixture
def unseen(url: str, session: aiohttp.ClientSession) -> LMCacheServer:
    """Its disk tier is on another machine."""
    return LMCacheServer(url, session, model=MODEL, chunk_tokens=CHUNK, disk_path=None, chunk_bytes=CHUNK_BYTES)


@pytest.fixture
def down(session: aiohttp.ClientSession, tmp_path: Path) -> LMCacheServer:
    return LMCacheServer(f"http://127.0.0.1:{unused_port()}", session, model=MODEL, chunk_tokens=CHUNK, disk_path=tmp_path)


def keys_of(ids: list[int]) -> list[str]:
    """The documented chain, each key computed anew from the beginning."""
    keys = []
    for end in range(CHUNK, len(ids) + 1, CHUNK):
        key = blake3(bytes(12)).digest()
        for start in range(0, end, CHUNK):
            key = blake3(key + b"".join(number.to_bytes(4, "big") for number in ids[start : start + CHUNK])).digest()
        keys.append(key.hex())
    return keys


def write_chunks(folder: Path, chunks: int, *, salt: str = SALT, size: int = CHUNK_BYTES) -> list[Path]:
    paths = [folder / f"-SEP-models-SEP-smollm2@0x01000100@0@{key}@{salt}.data" for key in keys_of(list(IDS))[:chunks]]
    for path in paths:
        path.write_bytes(bytes(size))
    return paths


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=5 * CHUNK))
def test_a_chunks_key_is_the_chain_over_all_before_it(ids: list[int]) -> None:
    assert [key.hex() for key in chunk_hashes(ids, CHUNK)] == keys_of(ids)


def test_a_chunk_that_is_not_full_has_no_key() -> None:
    assert [len(list(chunk_hashes(range(length), CHUNK))) for length in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


def test_a_file_is_named_by_model_rank_key_and_salt() -> None:
    assert file_name("/abs/my-model", b"\x01\xab", Salt("5a17")) == "-SEP-abs-SEP-my-model@0x01000100@0@01ab@5a17.data"


async def test_what_is_held_is_counted_in_ram_and_on_disk(lmcache: LMCacheServer, fake: FakeLMCache, tmp_path: Path) -> None:
    write_chunks(tmp_path, 3)
    fake.ram_bytes[SALT] = 2 * CHUNK_BYTES
    assert await lmcache.held(IDS, SALT) == Held(ram=0.5, disk=0.75)
    assert not await lmcache.stored(IDS, SALT)


async def test_a_prefix_with_all_its_files_is_stored(lmcache: LMCacheServer, tmp_path: Path) -> None:
    write_chunks(tmp_path, 4)
    assert await lmcache.held(IDS, SALT) == Held(ram=0.0, disk=1.0)
    assert await lmcache.stored(IDS, SALT)


async def test_another_versions_files_and_ram_do_not_count(lmcache: LMCacheServer, fake: FakeLMCache, tmp_path: Path) -> None:
    write_chunks(tmp_path, 4, salt="0the5")
    fake.ram_bytes["0the5"] = 4 * CHUNK_BYTES
    assert await lmcache.held(IDS, SALT) == Held()


async def test_an_empty_file_is_no_chunk(lmcache: LMCacheServer, tmp_path: Path) -> None:
    write_chunks(tmp_path, 4)[2].write_bytes(b"")
    assert (await lmcache.held(IDS, SALT)).disk == 0.75


@pytest.mark.parametrize(("ram_bytes", "share"), [(3960, 1.0), (1990, 0.5), (8000, 1.0), (0, 0.0)])
async def test_ram_is_rounded_to_whole_chunks_of_the_files_size(
    lmcache: LMCacheServer, fake: FakeLMCache, tmp_path: Path, ram_bytes: int, share: float
) -> None:
    """Encrypted files are a little longer than what they hold in RAM."""
    write_chunks(tmp_path, 4)
    fake.ram_bytes[SALT] = ram_bytes
    assert (await lmcache.held(IDS, SALT)).ram == share


async def test_a_chunks_size_is_remembered_when_its_files_are_gone(
    lmcache: LMCacheServer, fake: FakeLMCache, tmp_path: Path
) -> None:
    paths = write_chunks(tmp_path, 4)
    await lmcache.held(IDS, SALT)
    for path in paths:
        path.unlink()
    fake.ram_bytes[SALT] = 2 * CHUNK_BYTES
    assert await lmcache.held(IDS, SALT) == Held(ram=0.5, disk=0.0)


async def test_a_prefix_shorter_than_a_chunk_is_held_nowhere(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    fake.ram_bytes[SALT] = CHUNK_BYTES
    assert await lmcache.held(range(CHUNK - 1), SALT) == Held()


async def test_where_the_disk_can_not_be_seen_ram_decides(unseen: LMCacheServer, fake: FakeLMCache) -> None:
    assert not await unseen.stored(IDS, SALT)
    fake.ram_bytes[SALT] = 4 * CHUNK_BYTES
    assert await unseen.held(IDS, SALT) == Held(ram=1.0, disk=0.0)
    assert await unseen.stored(IDS, SALT)


async def test_where_the_disk_can_not_be_seen_a_part_in_ram_is_not_stored(unseen: LMCacheServer, fake: FakeLMCache) -> None:
    fake.ram_bytes[SALT] = CHUNK_BYTES
    assert (await unseen.held(IDS, SALT)).ram == pytest.approx(CHUNK / len(IDS))
    assert not await unseen.stored(IDS, SALT)


def test_a_server_without_disk_or_chunk_size_is_refused(session: aiohttp.ClientSession) -> None:
    with pytest.raises(ValueError, match="chunk_bytes"):
        LMCacheServer("http://127.0.0.1:1", session, model=MODEL, chunk_tokens=CHUNK, disk_path=None)


def test_the_kv_of_a_token_follows_from_the_models_config(tmp_path: Path) -> None:
    assert kv_bytes_a_token(tmp_path, "bfloat16") is None
    # SmolLM2-135M: measured in engine runs as 23,040 bytes a token in bfloat16.
    config = '{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}'
    (tmp_path / "config.json").write_text(config)
    assert kv_bytes_a_token(tmp_path, "bfloat16") == 23_040
    assert kv_bytes_a_token(tmp_path, "float32") == 46_080
    assert kv_bytes_a_token(tmp_path, "int3") is None


async def test_a_server_that_is_down_holds_nothing_in_ram(down: LMCacheServer, tmp_path: Path) -> None:
    write_chunks(tmp_path, 4)
    assert await down.held(IDS, SALT) == Held(ram=0.0, disk=1.0)


async def test_a_server_that_fails_holds_nothing_in_ram(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    fake.ram_bytes[SALT] = CHUNK_BYTES
    fake.status = 500
    assert await lmcache.held(IDS, SALT) == Held()


async def test_a_deletion_names_every_chunk_in_every_tier(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    await lmcache.delete(IDS, SALT)
    key = {"model_name": MODEL, "kv_rank": 0x01000100, "object_group_id": 0, "cache_salt": SALT}
    keys = [{"chunk_hash_hex": chunk, **key} for chunk in keys_of(list(IDS))]
    assert fake.deletions == [{"keys": keys, "tier": "all"}]


async def test_a_long_documents_deletion_is_sent_in_parts(url: str, session: aiohttp.ClientSession, fake: FakeLMCache) -> None:
    lmcache = LMCacheServer(url, session, model=MODEL, chunk_tokens=1, disk_path=None, chunk_bytes=1)
    await lmcache.delete(range(10_001), SALT)
    assert len(fake.deletions) > 1
    assert max(len(deletion["keys"]) for deletion in fake.deletions) <= 10_000
    assert len({key["chunk_hash_hex"] for deletion in fake.deletions for key in deletion["keys"]}) == 10_001


@pytest.mark.parametrize(
    ("status", "answer"), [(503, {"ok": True}), (200, {"ok": False, "error": "locked"}), (200, {}), (502, "Bad Gateway")]
)
async def test_a_deletion_that_was_not_done_is_an_os_error(
    lmcache: LMCacheServer, fake: FakeLMCache, status: int, answer: dict[str, Any] | str
) -> None:
    fake.status, fake.answer = status, answer
    with pytest.raises(OSError, match="LMCache did not delete: "):
        await lmcache.delete(IDS, SALT)


async def test_a_deletion_on_a_server_that_is_down_is_an_os_error(down: LMCacheServer) -> None:
    with pytest.raises(OSError, match="LMCache did not delete: "):
        await down.delete(IDS, SALT)


async def test_a_healthy_server_has_no_problem(lmcache: LMCacheServer, fake: FakeLMCache) -> None:
    assert await lmcache.check() is None
    fake.status = 503
    assert await lmcache.check() == "its /healthcheck answers 503"


async def test_a_server_that_is_down_says_where_it_should_be(down: LMCacheServer) -> None:
    assert (await down.check() or "").startswith("can't be reached at http://127.0.0.1:")
    assert repr(down).startswith("<LMCacheServer http://127.0.0.1:")
