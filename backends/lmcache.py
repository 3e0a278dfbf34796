"""An LMCache server over HTTP, and its disk tier's files: the one place that knows chunks, keys and "L1/L2".

A prefix is chunks of a fixed number of tokens; each chunk's key is a hash chain over all tokens up to its end.
The gateway thinks in documents and asks here how much of one is in RAM (L1) and on disk (L2).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from blake3 import blake3

from router.documents import Salt
from router.residency import Held

log = structlog.get_logger("lmcache")

TIMEOUT = aiohttp.ClientTimeout(total=5.0)
KV_RANK = 0x01000100
"""World size 1, rank 0, as LMCache packs them into its keys."""
MAX_KEYS_A_DELETE = 1_000
"""LMCache takes ten times as many; as JSON these are 200 kB, which the event loop still writes in one go."""


def chunk_hashes(ids: Sequence[int], chunk_tokens: int) -> Iterator[bytes]:
    """The key of each full chunk: BLAKE3 over the key before it and the chunk's ids (uint32, big-endian)."""
    key = blake3(b"\0" * 8 + struct.pack(">I", 0)).digest()
    for start in range(0, len(ids) - chunk_tokens + 1, chunk_tokens):
        key = blake3(key + struct.pack(f">{chunk_tokens}I", *ids[start : start + chunk_tokens])).digest()
        yield key


def file_name(model: str, key: bytes, salt: Salt) -> str:
    """The disk tier's name of a chunk. `model` is the path that the workers were started with."""
    return f"{model.replace('/', '-SEP-')}@{KV_RANK:#010x}@0@{key.hex()}@{salt}.data"


class LMCacheServer:
    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        model: str,
        chunk_tokens: int,
        disk_path: Path | None,
        name: str = "lmcache",
    ) -> None:
        """`model` is the workers' `--model`; `disk_path` the disk tier's folder, None where it can't be seen from here."""
        self.name = name
        self._url = url.rstrip("/")
        self._session = session
        self._model = model
        self._chunk_tokens = chunk_tokens
        self._disk_path = disk_path
        self._chunk_bytes: float | None = None

    def __repr__(self) -> str:
        return f"<LMCacheServer {self._url} disk={self._disk_path}>"

    async def check(self) -> str | None:
        try:
            async with self._session.get(f"{self._url}/healthcheck", timeout=TIMEOUT) as response:
                return None if response.status == 200 else f"its /healthcheck answers {response.status}"
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return f"can't be reached at {self._url} ({error or type(error).__name__})"

    async def held(self, ids: Sequence[int], salt: Salt) -> Held:
        """How much of the prefix `ids` (a multiple of the chunk size long) is in RAM and on disk now.

        What can't be found out counts as absent.
        """
        chunks = len(ids) // self._chunk_tokens
        if not chunks:
            return Held()
        sizes, ram_bytes = await asyncio.gather(asyncio.to_thread(self._file_sizes, ids, salt), self._ram_bytes(salt))
        if sizes:
            self._chunk_bytes = max(sizes)
        in_ram = ram_bytes / self._chunk_bytes if self._chunk_bytes else float(bool(ram_bytes)) * chunks
        # Encrypted files are a few bytes longer than what they hold: round to whole chunks.
        return Held(ram=min(round(in_ram) / chunks, 1.0), disk=len(sizes) / chunks)

    async def stored(self, ids: Sequence[int], salt: Salt) -> bool:
        """Whether the whole prefix is where it outlives the engine: on disk, or in RAM where the disk can't be seen."""
        held = await self.held(ids, salt)
        return (held.ram if self._disk_path is None else held.disk) >= 1

    async def delete(self, ids: Sequence[int], salt: Salt) -> None:
        """Remove the prefix from RAM and disk. Raises OSError where the server did not do it; absent chunks are no error."""
        keys = [
            {
                "chunk_hash_hex": key.hex(),
                "model_name": self._model,
                "kv_rank": KV_RANK,
                "object_group_id": 0,
                "cache_salt": salt,
            }
            for key in chunk_hashes(ids, self._chunk_tokens)
        ]
        for start in range(0, len(keys), MAX_KEYS_A_DELETE):
            body = {"keys": keys[start : start + MAX_KEYS_A_DELETE], "tier": "all"}
            try:
                async with self._session.delete(f"{self._url}/cache/objects", json=body, timeout=TIMEOUT) as response:
                    answer: Any = await response.json()
            except (TimeoutError, aiohttp.ClientError, ValueError) as error:
                raise OSError(f"LMCache did not delete: {error or type(error).__name__}") from error
            if response.status != 200 or not answer.get("ok"):
                raise OSError(f"LMCache did not delete: {response.status} {answer}")

    async def _ram_bytes(self, salt: Salt) -> int:
        try:
            async with self._session.get(f"{self._url}/quota/{salt}", timeout=TIMEOUT) as response:
                return round((await response.json())["current_usage_gb"] * 2**30) if response.status == 200 else 0
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, KeyError) as error:
            log.info("ram_usage_unknown", error=str(error) or type(error).__name__)
            return 0

    def _file_sizes(self, ids: Sequence[int], salt: Salt) -> list[int]:
        """The sizes in bytes of the prefix's chunks that are files now."""
        if self._disk_path is None:
            return []
        paths = (self._disk_path / file_name(self._model, key, salt) for key in chunk_hashes(ids, self._chunk_tokens))
        return [size for path in paths if (size := _size(path))]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
