"""Reports as LMCache 0.5.6 was heard to send them, and what is believed after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from router.chunk_tier import ChunkKey
from router.documents import Salt
from router.residency import Ledger
from tests.backends.lmcache.samples import CHUNK_BYTES, FRAME_BYTES, KEYS, MODEL, SALT

HOST = "lmcache"
STARTED = 1795506161


def entry(key: ChunkKey, salt: str = SALT, *, size_bytes: int = 0, **changes: Any) -> dict[str, Any]:
    named = {"chunk_hash_hex": key.hex(), "model_name": MODEL, "kv_rank": 0x01000100, "object_group_id": 0, "cache_salt": salt}
    return {"key": named | changes, "size_bytes": size_bytes, "token_ids": [7] * 256 if size_bytes else [], "token_offset": 0}


def batch(seq: int, event: str, tier: str = "l1", entries: Sequence[dict[str, Any]] = (), **changes: Any) -> dict[str, Any]:
    """As `CacheEventBatch` of LMCache 0.5.6."""
    usual: dict[str, Any] = {"instance_id": HOST, "incarnation": STARTED, "seq": seq, "event_type": event, "tier": tier}
    usual |= {"backend": "dram" if tier == "l1" else "fs", "entries": list(entries), "shared": False, "ts": 1795506162.8}
    return usual | {"capacity_bytes": 0, "capacity_revision": 0} | changes


def stored(seq: int, keys: Sequence[ChunkKey], tier: str = "l1", salt: str = SALT, **changes: Any) -> dict[str, Any]:
    size = CHUNK_BYTES if tier == "l1" else FRAME_BYTES
    return batch(seq, "store", tier, [entry(key, salt, size_bytes=size) for key in keys], **changes)


def dropped(seq: int, keys: Sequence[ChunkKey], tier: str = "l1", **changes: Any) -> dict[str, Any]:
    return batch(seq, "delete", tier, [entry(key) for key in keys], **changes)


def body(*batches: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"batches": batches})


def in_ram(ledger: Ledger, host: str = HOST, salt: Salt = SALT) -> int:
    ledger.check()
    return ledger.ram(host).run(salt, KEYS)


def on_disk(ledger: Ledger, host: str = HOST) -> int:
    return ledger.disk(host).run(SALT, KEYS)
