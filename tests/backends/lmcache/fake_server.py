"""LMCache's HTTP side, as the real one was seen to behave: RAM and disk as sets of chunks, loads as a whole or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from backends.lmcache.server import LMCacheServer
from tests.backends.lmcache.samples import CHUNK, CHUNK_BYTES, MODEL, keys_of

Chunk = tuple[str, str]
"""(salt, key in hex)"""


class FakeLMCache:
    """A test puts chunks into `ram` and `disk`; `status` and `answers` make it fail."""

    def __init__(self) -> None:
        self.ram: set[Chunk] = set()
        self.disk: set[Chunk] = set()
        self.damaged: set[Chunk] = set()
        self.loads_at_once = 10**9
        """How many chunks RAM has room for in one load: they are there twice while they are opened."""
        self.locked: dict[Chunk, int] = {}
        """Chunks in use, and how many more deletions find them so."""
        self.polls = 2
        """How often a prefetch is pending before it is completed."""
        self.prefetches: list[dict[str, Any]] = []
        self.deletions: list[dict[str, Any]] = []
        self.status = 200
        self.answer: Any = None
        """Instead of what it would say; text that is no JSON, too."""
        self._jobs: dict[str, tuple[int, int, int]] = {}
        self.app = web.Application(client_max_size=2**26)
        self.app.router.add_get("/healthcheck", self._health)
        self.app.router.add_get("/status", self._status)
        self.app.router.add_post("/cache/prefetches", self._prefetch)
        self.app.router.add_get("/cache/prefetches/{id}", self._poll)
        self.app.router.add_delete("/cache/objects", self._delete)

    async def _health(self, _: web.Request) -> web.Response:
        return self._say({})

    async def _status(self, _: web.Request) -> web.Response:
        ram = {"is_healthy": True, "memory_used_bytes": len(self.ram) * CHUNK_BYTES, "memory_configured_bytes": 100 * CHUNK_BYTES}
        return self._say({"chunk_size": CHUNK, "storage_manager": {"l1_managers": {"_default": ram}, "l2_adapters": []}})

    async def _prefetch(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.prefetches.append(body)
        if self.answer is not None:
            return self._say({})
        wanted = [(body["cache_salt"], key.hex()) for key in keys_of(body["token_ids"])]
        if not wanted:
            return self._say({"chunks": 0, "status": "noop"}, 202)
        load = {chunk for chunk in wanted if chunk in self.disk} - self.ram
        if len(load) <= self.loads_at_once and not load & self.damaged:
            self.ram |= load
        job = f"job-{len(self.prefetches)}"
        self._jobs[job] = (self.polls, sum(chunk in self.ram for chunk in wanted), len(wanted))
        return self._say({"request_id": job, "chunks": len(wanted), "status": "submitted"}, 202)

    async def _poll(self, request: web.Request) -> web.Response:
        job = request.match_info["id"]
        if job not in self._jobs:
            return web.json_response({"error": "unknown"}, status=404)
        polls, found, total = self._jobs.pop(job)
        if polls:
            self._jobs[job] = (polls - 1, found, total)
            return self._say({"request_id": job, "status": "pending"})
        return self._say({"request_id": job, "status": "completed", "found_keys": found, "total_keys": total})

    async def _delete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.deletions.append(body)
        skipped = 0
        for key in body["keys"]:
            chunk = (key["cache_salt"], key["chunk_hash_hex"])
            if body["tier"] in ("l1", "all") and chunk in self.ram:
                if self.locked.get(chunk, 0) > 0:
                    self.locked[chunk] -= 1
                    skipped += 1
                else:
                    self.ram.discard(chunk)
            if body["tier"] in ("l2", "all"):
                self.disk.discard(chunk)
        await asyncio.sleep(0)
        return self._say({"deleted": len(body["keys"]), "skipped": skipped, "ok": True})

    def _say(self, body: dict[str, Any], status: int = 200) -> web.Response:
        status = self.status if self.status != 200 else status
        if isinstance(self.answer, str):
            return web.Response(text=self.answer, status=status)
        return web.json_response(body if self.answer is None else self.answer, status=status)


def make(url: str, session: aiohttp.ClientSession, folder: Path | None, **options: Any) -> LMCacheServer:
    """The adapter, as most tests want it: `folder` is the disk tier's, its key beside it."""
    key_path = folder.parent / "kv.key" if folder is not None else None
    usual: dict[str, Any] = {"model": MODEL, "chunk_tokens": CHUNK, "disk_path": folder, "key_path": key_path, "locked_s": 0.1}
    return LMCacheServer(url, session, **(usual | options))
