"""A prefix of four chunks, and its files as LMCache would have written them. Computed here anew, from what is documented."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from router.chunk_tier import ChunkKey
from router.documents import Salt

CHUNK = 4
"""Tokens."""
CHUNK_BYTES = 64
FRAME_BYTES = CHUNK_BYTES + 29
SALT, OTHER = Salt("5a17"), Salt("0the5")
MODEL = "/models/smollm2"
IDS = range(100, 116)
MASTER_KEY = bytes(range(32))


def keys_of(ids: Sequence[int]) -> tuple[ChunkKey, ...]:
    """The documented chain, each key computed anew from the beginning."""
    keys = []
    for end in range(CHUNK, len(ids) + 1, CHUNK):
        key = blake3(bytes(12)).digest()
        for start in range(0, end, CHUNK):
            key = blake3(key + b"".join(number.to_bytes(4, "big") for number in ids[start : start + CHUNK])).digest()
        keys.append(ChunkKey(key))
    return tuple(keys)


KEYS = keys_of(IDS)


def frame(salt: Salt = SALT, content: bytes | None = None) -> bytes:
    """A chunk as the encrypted tier has it."""
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"lmcache-l2-aesgcm-v1" + salt.encode()).derive(MASTER_KEY)
    iv = os.urandom(12)
    return b"\x01" + iv + AESGCM(key).encrypt(iv, os.urandom(CHUNK_BYTES) if content is None else content, None)


def chunk_path(folder: Path, key: ChunkKey, salt: Salt = SALT, suffix: str = ".data") -> Path:
    return folder / f"-SEP-models-SEP-smollm2@0x01000100@0@{key.hex()}@{salt}{suffix}"


def write_chunks(
    folder: Path, keys: Sequence[ChunkKey] = KEYS, *, salt: Salt = SALT, age_s: float = 0.0, plain: bool = False
) -> list[Path]:
    paths = [chunk_path(folder, key, salt) for key in keys]
    for path in paths:
        path.write_bytes(bytes(CHUNK_BYTES) if plain else frame(salt))
        grow_old(path, age_s)
    return paths


def grow_old(path: Path, age_s: float) -> None:
    at = time.time() - age_s
    os.utime(path, (at, at))
