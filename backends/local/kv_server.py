"""Starts LMCache's server with a disk tier whose seals name their chunks. Runs under the worker environment's Python.

LMCache's own `aesgcm` seals a chunk's content with a key of its salt's, but does not say which chunk it is: two files
of one document that changed places would be served, and the answer be wrong. Here the chunk's name is authenticated
with the content, as GCM's associated data, so such a file is a miss like any other damage. Everything else (keys by
HKDF for each salt, the frame) is LMCache's. `backends/lmcache/sealed.py` checks these frames from outside.

Imports nothing of ours. Arguments are those of `lmcache server`; the serde's type is `aesgcm-named`.
"""

from __future__ import annotations

import os
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = 2
"""The frame's first byte. LMCache's own frames have 1."""
IV_BYTES = 12
TAG_BYTES = 16
INFO = b"lmcache-l2-aesgcm-v1"


def name_of(key: Any) -> bytes:
    """What a chunk is called in its seal: its file's name without the ending."""
    model = key.model_name.replace("/", "-SEP-")
    return f"{model}@{key.kv_rank:#010x}@{key.object_group_id:x}@{key.chunk_hash.hex()}@{key.cache_salt}".encode()


def register() -> None:
    """Make the serde known to LMCache."""
    from lmcache.v1.distributed.serde.aesgcm import AesGcmSerializer
    from lmcache.v1.distributed.serde.async_processor import AsyncSerdeProcessor
    from lmcache.v1.distributed.serde.base import Deserializer
    from lmcache.v1.distributed.serde.factory import register_serde_factory
    from lmcache.v1.distributed.serde.key_provider import HkdfKeyProvider

    class NamedSerializer(AesGcmSerializer):  # type: ignore[misc, unused-ignore]
        def serialize(self, src: Any, dst: Any, key: Any) -> int:
            content = memoryview(src.byte_array).cast("B")
            frame = memoryview(dst.byte_array).cast("B")
            iv, start = os.urandom(IV_BYTES), 1 + IV_BYTES
            end = start + len(content) + TAG_BYTES
            frame[:start] = bytes((VERSION,)) + iv
            # In place, here and below: a new buffer for each chunk takes ten times as long as the sealing.
            AESGCM(self._keys.get_key(key.cache_salt)).encrypt_into(iv, content, name_of(key), frame[start:end])
            return end

    class NamedDeserializer(Deserializer):  # type: ignore[misc, unused-ignore]
        def __init__(self, keys: HkdfKeyProvider) -> None:
            self._keys = keys

        def deserialize(self, src: Any, dst: Any, key: Any) -> None:
            """Raises InvalidTag or ValueError for anything but this very chunk: LMCache counts that as a miss."""
            out = memoryview(dst.byte_array).cast("B")
            end = 1 + IV_BYTES + len(out) + TAG_BYTES
            frame = memoryview(src.byte_array).cast("B")
            if len(frame) < end or frame[0] != VERSION:
                raise ValueError("no frame of this version")
            cipher = AESGCM(self._keys.get_key(key.cache_salt))
            cipher.decrypt_into(frame[1 : 1 + IV_BYTES], frame[1 + IV_BYTES : end], name_of(key), out)

    def create(settings: dict[str, object]) -> Any:
        with open(str(settings["master_key_path"]), "rb") as file:  # noqa: PTH123 - as LMCache reads it
            keys = HkdfKeyProvider(file.read(), key_len=32, info_prefix=INFO)
        return AsyncSerdeProcessor(NamedSerializer(keys), NamedDeserializer(keys), max_workers=1)

    register_serde_factory("aesgcm-named", create)


if __name__ == "__main__":
    from lmcache.cli.main import main

    register()
    main()
