"""How LMCache names chunks: the hash chain over a prefix's tokens, the file of each, and what a chunk weighs. Pure.

A prefix is chunks of a fixed number of tokens; each chunk's key is a hash over all tokens up to its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from blake3 import blake3

from router.chunk_tier import ChunkKey
from router.documents import Salt

KV_RANK = 0x01000100
"""World size 1, rank 0, as LMCache packs them into its keys."""
OBJECT_GROUP = 0
"""The only one of a model whose layers all have the same kind of attention."""
KEY_BYTES = 32
CHUNK, PARTIAL = ".data", ".tmp"
"""What the name of a chunk's file ends with; and of one that is being written, or never was to its end."""

_TAIL = re.compile(rf"([0-9a-f]{{{2 * KEY_BYTES}}})@([^@/\\\0]{{1,128}})")


def chunk_hashes(ids: Sequence[int], chunk_tokens: int) -> Iterator[ChunkKey]:
    """The key of each full chunk: BLAKE3 over the key before it and the chunk's ids (uint32, big-endian)."""
    count = len(ids) // chunk_tokens
    raw = np.asarray(ids[: count * chunk_tokens], dtype=">u4").tobytes()
    size = 4 * chunk_tokens
    key = blake3(bytes(12)).digest()  # LMCache's key of nothing: eight zero bytes and a zero as uint32
    for start in range(0, count * size, size):
        key = blake3(key + raw[start : start + size]).digest()
        yield ChunkKey(key)


def file_name(model: str, key: ChunkKey, salt: Salt) -> str:
    """The disk tier's name of a chunk. `model` is the path that the workers were started with."""
    return f"{_head(model)}{key.hex()}@{salt}{CHUNK}"


def partial_name(model: str, key: ChunkKey, salt: Salt) -> str:
    """The name under which a chunk is written before it is renamed to `file_name`."""
    return f"{_head(model)}{key.hex()}@{salt}{PARTIAL}"


def parse_file_name(model: str, name: str, *, suffix: str = CHUNK) -> tuple[Salt, ChunkKey] | None:
    """The inverse of `file_name` (or, with PARTIAL, of `partial_name`); None for any other name.

    LMCache writes "/" as "-SEP-", which can't be told from a model that has "-SEP-" in its path. So the model is given
    and compared, never read out of the name.
    """
    head = _head(model)
    if not name.startswith(head) or not name.endswith(suffix):
        return None
    found = _TAIL.fullmatch(name[len(head) : -len(suffix)])
    return (Salt(found[2]), ChunkKey(bytes.fromhex(found[1]))) if found is not None else None


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


def _head(model: str) -> str:
    return f"{model.replace('/', '-SEP-')}@{KV_RANK:#010x}@{OBJECT_GROUP:x}@"
