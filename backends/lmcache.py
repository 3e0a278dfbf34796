"""An LMCache server over HTTP, and its disk tier's files: the one place that knows chunks, keys and "L1/L2".

A prefix is chunks of a fixed number of tokens; each chunk's key is a hash chain over all tokens up to its end.
The gateway thinks in documents and asks here how much of one is in RAM (L1) and on disk (L2).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
import msgspec
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


def kv_bytes_a_token(folder: Path, dtype: str) -> int | None:
    """Bytes of KV a token of this model takes: 2 (keys, values) × layers × KV heads × head size × bytes a number.

    From the Hugging Face folder's config.json; None where it does not say (other kinds of attention).
    """
    width = {"float32": 4, "bfloat16": 2, "float16": 2}.get(dtype)
    try:
        found = msgspec.json.decode((folder / "config.json").read_bytes(), type=_ModelConfig)
    except (OSError, msgspec.MsgspecError):
        return None
    heads = found.num_key_value_heads or found.num_attention_heads
    size = found.head_dim or found.hidden_size // found.num_attention_heads
    return 2 * found.num_hidden_layers * heads * size * width if width is not None else None


class _ModelConfig(msgspec.Struct):
    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None


class _Usage(msgspec.Struct):
    current_usage_gb: float = 0.0


class _Deleted(msgspec.Struct):
    ok: bool


class LMCacheServer:
    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        *,
        model: str,
        chunk_tokens: int,
        disk_path: Path | None,
        chunk_bytes: int | None = None,
        name: str = "lmcache",
    ) -> None:
        """`model` is the workers' `--model`; `disk_path` the disk tier's folder, None where it can't be seen from here.

        `chunk_bytes`: what a chunk takes in RAM (see `kv_bytes_a_token`); learned from the files where there are some,
        so it must be known where `disk_path` is None. Raises ValueError where neither is given.
        """
        if disk_path is None and chunk_bytes is None:
            raise ValueError("either disk_path or chunk_bytes")
        self.name = name
        self._url = url.rstrip("/")
        self._session = session
        self._model = model
        self._chunk_tokens = chunk_tokens
        self._disk_path = disk_path
        self._chunk_bytes = chunk_bytes

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
        if self._chunk_bytes is None and sizes:
            self._chunk_bytes = max(sizes)
        # Encrypted files are a few bytes longer than what they hold: round to whole chunks.
        in_ram = round(ram_bytes / self._chunk_bytes) if self._chunk_bytes else 0
        return Held(ram=min(in_ram / chunks, 1.0), disk=len(sizes) / chunks)

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
                    raw = await response.read()
                    done = response.status == 200 and msgspec.json.decode(raw, type=_Deleted).ok
            except (TimeoutError, aiohttp.ClientError, msgspec.MsgspecError) as error:
                raise OSError(f"LMCache did not delete: {error or type(error).__name__}") from error
            if not done:
                raise OSError(f"LMCache did not delete: {response.status} {raw[:300]!r}")

    async def _ram_bytes(self, salt: Salt) -> int:
        try:
            async with self._session.get(f"{self._url}/quota/{salt}", timeout=TIMEOUT) as response:
                usage = msgspec.json.decode(await response.read(), type=_Usage) if response.status == 200 else _Usage()
                return round(usage.current_usage_gb * 2**30)
        except (TimeoutError, aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
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
