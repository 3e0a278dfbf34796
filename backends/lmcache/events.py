"""LMCache's events: what each host's server stores in RAM and on disk, and what it drops.

To LMCache this is its "coordinator": of a coordinator's HTTP it serves the four routes that a server reports to, and
nothing else. An "access" says nothing: LMCache also reports it of chunks that it never had. A gap in a server's sequence (it restarted, or events were lost) resets what is believed of its RAM; what
is on disk is looked at from time to time anyway (`disk.py`). Applied to `router/residency.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

import msgspec
import structlog
from aiohttp import web

from backends.lmcache.keys import KEY_BYTES, KV_RANK, OBJECT_GROUP
from router.chunk_tier import ChunkKey
from router.documents import Salt
from router.residency import Ledger

log = structlog.get_logger("lmcache_events")

MAX_BODY_BYTES = 2**28
"""A stored chunk comes with its tokens: 2 kB. What is refused is lost, and leaves a gap."""
SILENT_AFTER_S = 15.0
"""A server that has not been heard of for this long is gone, and its RAM with it."""
CHECK_S = 1.0
SHUTDOWN_S = 1.0


class _Key(msgspec.Struct):
    chunk_hash_hex: str
    model_name: str
    kv_rank: int
    object_group_id: int = 0
    cache_salt: str = ""


class _Entry(msgspec.Struct):
    """The chunk's tokens come along too, and are passed over."""

    key: _Key
    size_bytes: int = 0


class Batch(msgspec.Struct):
    """Events of one kind, of one tier. `seq` counts from 1 in each `incarnation`, which is when the server started."""

    instance_id: str
    incarnation: int
    seq: int
    event_type: Literal["store", "delete", "access", "config"]
    tier: Literal["l1", "l2"]
    entries: list[_Entry] = []


class _Batches(msgspec.Struct):
    batches: list[Batch] = []


class _Registration(msgspec.Struct):
    instance_id: str


class _Server:
    """What is known of one server's stream."""

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self.registered = False
        self.incarnation = -1
        self.seq = 0


class CacheEventReceiver:
    """Keeps `ledger` up to date while it runs."""

    def __init__(
        self,
        host: str,
        port: int,
        ledger: Ledger,
        *,
        model: str,
        models: Mapping[str, str] | None = None,
        silent_after_s: float = SILENT_AFTER_S,
    ) -> None:
        """Bound to `host` and `port` while `run` runs. `model` is the workers' `--model`, `models` the same by the server's
        name, for hosts that have the model elsewhere.

        A server's `--instance-id` must be one of the ledger's hosts; others are turned away.
        """
        self._host = host
        self._port = port
        self._ledger = ledger
        self._model = model
        self._models = dict(models or {})
        self._silent_after_s = silent_after_s
        self._servers: dict[str, _Server] = {}
        self._decode = msgspec.json.Decoder(_Batches).decode

    def __repr__(self) -> str:
        return f"<CacheEventReceiver {self._host}:{self._port} of {sorted(self._servers)}>"

    async def run(self) -> None:
        """Listen until cancelled. Raises OSError where the address can't be bound."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/instances", self._register)
        app.router.add_put("/instances/{name}/heartbeat", self._heartbeat)
        app.router.add_delete("/instances/{name}", self._leave)
        app.router.add_post("/events", self._events)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
            while True:
                await asyncio.sleep(CHECK_S)
                self.forget_silent(_now())
        finally:
            await runner.cleanup()

    def receive(self, body: bytes) -> dict[str, int]:
        """Apply the body of one report; the counts that LMCache expects. Raises msgspec.MsgspecError where it is none."""
        counts = {"applied": 0, "duplicates": 0, "stale": 0}
        for batch in self._decode(body).batches:
            counts[self._admit(batch)] += 1
        return counts

    def forget_silent(self, now: float) -> None:
        for name, server in list(self._servers.items()):
            if now - server.heard_at > self._silent_after_s:
                log.info("kv_server_silent", server=name, seconds=round(now - server.heard_at))
                self._forget(name)

    # --- inside --------------------------------------------------------------------------------------------------------

    def _admit(self, batch: Batch) -> Literal["applied", "duplicates", "stale"]:
        if batch.instance_id not in self._ledger.hosts:
            return "stale"
        server = self._hear(batch.instance_id)
        if batch.incarnation < server.incarnation:
            return "stale"
        if batch.incarnation == server.incarnation and batch.seq <= server.seq:
            return "duplicates"
        if batch.incarnation != server.incarnation:
            server.incarnation, server.seq = batch.incarnation, 0
            self._ledger.forget_ram(batch.instance_id)
        if batch.seq != server.seq + 1:
            log.info("kv_server_events_missed", server=batch.instance_id, expected=server.seq + 1, got=batch.seq)
            self._ledger.forget_ram(batch.instance_id)
        server.seq = batch.seq
        self._apply(batch)
        return "applied"

    def _apply(self, batch: Batch) -> None:
        host = batch.instance_id
        tier = self._ledger.ram(host) if batch.tier == "l1" else self._ledger.disk(host)
        model = self._models.get(host, self._model)
        for entry in batch.entries:
            if (named := _named(entry.key, model)) is None:
                continue
            salt, key = named
            if batch.event_type == "store":
                tier.stored(salt, key, entry.size_bytes)
            elif batch.event_type == "delete":
                tier.removed(salt, key)

    def _hear(self, name: str) -> _Server:
        server = self._servers.setdefault(name, _Server(_now()))
        server.heard_at = _now()
        return server

    def _forget(self, name: str) -> None:
        if self._servers.pop(name, None) is not None:
            self._ledger.forget_ram(name)

    # --- the four routes

    async def _register(self, request: web.Request) -> web.Response:
        try:
            name = msgspec.json.decode(await request.read(), type=_Registration).instance_id
        except msgspec.MsgspecError as error:
            return _unreadable(request, error)
        if name not in self._ledger.hosts:
            log.warning("kv_server_unknown", server=name, known=self._ledger.hosts)
            return web.Response(status=403, text=f"--instance-id must be one of {', '.join(self._ledger.hosts)}")
        known = name in self._servers and self._servers[name].registered
        if known:  # a process registers once: another one has taken its place
            self._forget(name)
        self._hear(name).registered = True
        log.info("kv_server_registered", server=name)
        return _json({"instance_id": name, "re_registered": known})

    async def _heartbeat(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._servers or not self._servers[name].registered:
            return web.Response(status=404, text="unknown: register again")
        self._hear(name)
        return _json({"instance_id": name})

    async def _leave(self, request: web.Request) -> web.Response:
        self._forget(request.match_info["name"])
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.Response:
        try:
            return _json(self.receive(await request.read()))
        except msgspec.MsgspecError as error:
            return _unreadable(request, error)


def _named(key: _Key, model: str) -> tuple[Salt, ChunkKey] | None:
    """None for what is no chunk of ours: LMCache's scratch space under longer keys, other models, no salt."""
    if key.model_name != model or key.kv_rank != KV_RANK or key.object_group_id != OBJECT_GROUP or not key.cache_salt:
        return None
    if len(key.chunk_hash_hex) != 2 * KEY_BYTES:
        return None
    try:
        return Salt(key.cache_salt), ChunkKey(bytes.fromhex(key.chunk_hash_hex))
    except ValueError:
        return None


def _json(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _unreadable(request: web.Request, error: Exception) -> web.Response:
    log.warning("kv_server_report_unreadable", path=request.path, error=str(error))
    return web.Response(status=400, text=str(error))


def _now() -> float:
    return asyncio.get_running_loop().time()
