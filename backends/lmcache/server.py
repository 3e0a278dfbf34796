"""An LMCache server over HTTP, with the files of its disk tier: `backends/base.py`'s KVServer.

It asks and steers; what the server does by itself is heard by `events.py`. Nothing is remembered here: every answer
is a look at the server or at the files.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import numpy as np
import structlog

from backends.base import Damage, DiskScan, Memory
from backends.lmcache.disk import DiskFiles
from backends.lmcache.keys import KV_RANK, OBJECT_GROUP, chunk_hashes
from router.chunk_tier import ChunkKey
from router.documents import Salt

log = structlog.get_logger("lmcache")

ASK_S = 5.0
TIMEOUT = aiohttp.ClientTimeout(total=ASK_S)
PREFETCH_S = 300.0
"""How long a prefix may take from disk to RAM."""
POLL_S = (0.01, 0.25)
"""How often a prefetch is asked after: at first, and at last."""
MAX_KEYS_A_DELETE = 1_000
"""LMCache takes ten times as many; as JSON these are 200 kB, which the event loop still writes in one go."""
LOCKED_S = 10.0
"""How long a deletion waits for chunks that are being read or written just now."""
CHUNKS_A_LOOK = 16
"""How many files are verified in one go: what a cancelled verification still reads, at most."""

Answer = TypeVar("Answer", bound=msgspec.Struct)


class _Deleted(msgspec.Struct):
    ok: bool
    skipped: int = 0


class _Submitted(msgspec.Struct):
    request_id: str = ""


class _Prefetched(msgspec.Struct):
    status: str
    found_keys: int = 0
    total_keys: int = 0


class _Ram(msgspec.Struct):
    memory_used_bytes: int
    memory_configured_bytes: int


class _StorageManager(msgspec.Struct):
    l1_managers: dict[str, _Ram]


class _Status(msgspec.Struct):
    storage_manager: _StorageManager


class LMCacheServer:
    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        model: str,
        chunk_tokens: int,
        disk_path: Path | None,
        key_path: Path | None = None,
        named: bool = False,
        chunk_bytes: int | None = None,
        name: str = "lmcache",
        prefetch_s: float = PREFETCH_S,
        locked_s: float = LOCKED_S,
    ) -> None:
        """`model` is the workers' `--model`; `disk_path` the disk tier's folder, None where it can't be seen from here.

        `key_path`: the disk tier's master key; None where it is stored plain, or the key is elsewhere. `named`: whether
        its seals name their chunks (`backends/local/kv_server.py`). `chunk_bytes`:
        what a chunk weighs (see `kv_bytes_a_token`), which tells a cut file of a plain tier. `name` is the server's
        `--instance-id`.
        """
        self.name = name
        self._url = url.rstrip("/")
        self._session = session
        self._model = model
        self._chunk_tokens = chunk_tokens
        self._disk = (
            DiskFiles(disk_path, model, key_path=key_path, named=named, chunk_bytes=chunk_bytes) if disk_path is not None else None
        )
        self._prefetch_s = prefetch_s
        self._locked_s = locked_s

    def __repr__(self) -> str:
        return f"<LMCacheServer {self.name} {self._url} {self._disk}>"

    async def check(self) -> str | None:
        try:
            async with self._session.get(f"{self._url}/healthcheck", timeout=TIMEOUT) as response:
                return None if response.status == 200 else f"its /healthcheck answers {response.status}"
        except (aiohttp.ClientError, OSError) as error:
            return f"can't be reached at {self._url} ({error or type(error).__name__})"

    def keys(self, ids: Sequence[int]) -> tuple[ChunkKey, ...]:
        return tuple(chunk_hashes(ids, self._chunk_tokens))

    # --- the disk tier's files

    @property
    def sees_disk(self) -> bool:
        return self._disk is not None

    async def scan(self) -> DiskScan:
        return await asyncio.to_thread(self._disk.scan) if self._disk is not None else DiskScan({}, {})

    async def free_bytes(self) -> int | None:
        return await asyncio.to_thread(self._disk.free_bytes) if self._disk is not None else None

    async def on_disk(self, keys: Sequence[ChunkKey], salt: Salt) -> dict[ChunkKey, int]:
        return await asyncio.to_thread(self._disk.sizes, keys, salt) if self._disk is not None else {}

    async def verify(self, keys: Sequence[ChunkKey], salt: Salt) -> Damage:
        """See `DiskFiles.verify` for what it can tell, and what it raises."""
        if self._disk is None:
            return Damage()
        looks = range(0, len(keys), CHUNKS_A_LOOK if self._disk.encrypted else max(len(keys), 1))
        found = [await asyncio.to_thread(self._disk.verify, keys[at : at + looks.step], salt) for at in looks]
        return Damage(tuple(key for part in found for key in part.damaged), sum(part.read_bytes for part in found))

    async def remove_partial(self, names: Sequence[str]) -> int:
        return await asyncio.to_thread(self._disk.remove_partial, names) if self._disk is not None else 0

    # --- the server

    async def prefetch(self, ids: Sequence[int], salt: Salt) -> int:
        """LMCache loads what one call asks for as a whole or, where a file is damaged or RAM is short, not at all; and it
        counts what it found wherever that stands. So the prefix is asked for whole, and where that fails in ever smaller
        steps, until it is known how far it goes without a gap. Raises TimeoutError (an OSError) after `prefetch_s`.
        """
        async with asyncio.timeout(self._prefetch_s):
            whole, total = 0, len(ids) // self._chunk_tokens
            step = total
            while step and whole < total:
                ask = min(whole + step, total)
                if await self._prefetch(ids[: ask * self._chunk_tokens], salt) >= ask:
                    whole = ask
                else:
                    step //= 2
            return whole

    async def delete(self, keys: Sequence[ChunkKey], salt: Salt, *, ram: bool = True, disk: bool = True) -> None:
        """Chunks in RAM that are being read or written just now are waited for, `locked_s` at most."""
        if not (ram or disk):
            return
        tier = "all" if ram and disk else "l1" if ram else "l2"
        for start in range(0, len(keys), MAX_KEYS_A_DELETE):
            await self._delete(keys[start : start + MAX_KEYS_A_DELETE], salt, tier)
        # The server only logs where it could not unlink, and says that it did.
        if disk and (left := await self.on_disk(keys, salt)):
            raise OSError(f"LMCache did not delete: {len(left)} of {len(keys)} chunks are still on disk")

    async def memory(self) -> Memory | None:
        try:
            status = await self._ask("GET", "/status", _Status)
        except OSError as error:
            log.info("ram_usage_unknown", error=str(error))
            return None
        tiers = status.storage_manager.l1_managers.values()
        return Memory(sum(tier.memory_used_bytes for tier in tiers), sum(tier.memory_configured_bytes for tier in tiers))

    async def _prefetch(self, ids: Sequence[int], salt: Salt) -> int:
        """How many of the prefix's chunks are in RAM now, wherever they stand."""
        body = {"model_name": self._model, "world_size": 1, "token_ids": np.asarray(ids).tolist(), "cache_salt": salt}
        submitted = await self._ask("POST", "/cache/prefetches", _Submitted, body)
        wait_s, longest_s = POLL_S
        while submitted.request_id:
            job = await self._ask("GET", f"/cache/prefetches/{submitted.request_id}", _Prefetched)
            if job.status == "completed":
                return job.found_keys
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, longest_s)
        return 0

    async def _delete(self, keys: Sequence[ChunkKey], salt: Salt, tier: str) -> None:
        named = [
            {
                "chunk_hash_hex": key.hex(),
                "model_name": self._model,
                "kv_rank": KV_RANK,
                "object_group_id": OBJECT_GROUP,
                "cache_salt": salt,
            }
            for key in keys
        ]
        wait_s, longest_s = POLL_S
        waited_s = 0.0
        while True:
            done = await self._ask("DELETE", "/cache/objects", _Deleted, {"keys": named, "tier": tier})
            if not done.ok:
                raise OSError("LMCache did not delete: the disk tier failed")
            if not done.skipped:
                return
            if waited_s >= self._locked_s:
                raise OSError(f"LMCache did not delete: {done.skipped} chunks have been in use for {waited_s:.0f} s")
            await asyncio.sleep(wait_s)
            waited_s += wait_s
            wait_s = min(wait_s * 1.5, longest_s)

    async def _ask(self, method: str, path: str, answer: type[Answer], body: object = None) -> Answer:
        """Raises OSError for whatever is no answer of this form."""
        what = f"{method} {path.partition('?')[0]}"
        # As a file, which aiohttp sends in parts: a long prefix's ids are megabytes.
        data = io.BytesIO(msgspec.json.encode(body)) if body is not None else None
        headers = {"content-type": "application/json"} if data is not None else {}
        try:
            async with self._session.request(method, self._url + path, data=data, headers=headers, timeout=TIMEOUT) as response:
                raw = await response.read()
                if response.status >= 300:
                    raise OSError(f"LMCache answered {what} with {response.status} {raw[:300]!r}")
                return msgspec.json.decode(raw, type=answer)
        except (TimeoutError, aiohttp.ClientError, msgspec.MsgspecError) as error:
            raise OSError(f"LMCache did not answer {what}: {error or type(error).__name__}") from error
