"""The whole gateway over fakes, on a real socket: what a client sees, with faults and state at hand."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from pathlib import Path
from typing import Any, Self

import aiohttp
from litestar import Litestar
from msgspec.structs import replace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from backends.base import Store
from backends.settings import Model
from backends.shared_counts import SharedCounts
from gateway.app import Apps, create_apps
from gateway.config import Config
from gateway.parts import Parts
from gateway.sections import Engine, Ingestion, RemoteWorker, Routing
from gateway.server import GatewayServer, listen
from gateway.tenants import keys
from observability.telemetry import Telemetry
from router.documents import TenantId
from tests.fakes.embedder import FakeEmbedder
from tests.fakes.engine import CHUNK, CHUNK_BYTES, FakeHost, FakeKVServer, FakeWorker
from tests.fakes.store import MemoryStore
from tests.fakes.tokenizers import simple

SECRET = b"a secret of the tests, long enough"
TENANT_SCOPES = ("ask", "read", "write", "share")
CONTEXT = 4096
RESERVE = 512


def config(folder: Path, **changes: Any) -> Config:
    """A configuration for fakes. `changes` replace its fields."""
    base = Config(
        data_path=folder,
        model=Model(name="small", path=folder / "model", context_tokens=CONTEXT),
        engine=Engine(chunk_tokens=CHUNK, workers=(RemoteWorker("worker-1", "http://127.0.0.1:1"),), check_interval_s=0.05),
        routing=Routing(min_score=0.2, margin=0.02),
        ingestion=Ingestion(answer_reserve_tokens=RESERVE),
        allow_cache_bypass=True,
    )
    return replace(base, **changes)


class Gateway:
    """A running gateway, its fakes, and a client that holds a key."""

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 1,
        store: Store | None = None,
        host: FakeHost | None = None,
        hosts: Sequence[FakeHost] = (),
        versions: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
        shared_counts: SharedCounts | None = None,
        **changes: Any,
    ) -> None:
        """`store` and `host` of an earlier gateway: a restart. `versions`: the engine's. `changes`: of `config`.

        `hosts`: where there are several; the workers are on them in turn.
        """
        self.config = config(folder, **changes)
        self.store = store or MemoryStore()
        self.hosts = list(hosts) or [host or FakeHost()]
        self.host = self.hosts[0]
        self.kv_servers = [FakeKVServer(each) for each in self.hosts]
        self.kv_server = self.kv_servers[0]
        self.workers = [FakeWorker(f"worker-{number + 1}", self.hosts[number % len(self.hosts)]) for number in range(workers)]
        self.embedder = FakeEmbedder()
        self.spans = InMemorySpanExporter()
        self.telemetry = Telemetry(span_processor=SimpleSpanProcessor(self.spans))
        self.versions = versions or {"vllm": "0", "lmcache": "0"}
        self.now = now
        self.shared_counts = shared_counts
        self.apps: Apps
        self.url = ""
        self.admin_url = ""
        self.session: aiohttp.ClientSession
        self.key = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        await self.store.open()
        self.key = await self.new_key("tenant-a")
        parts = Parts(
            store=self.store,
            workers=tuple(self.workers),
            kv_servers=tuple(self.kv_servers),
            hosts={worker.name: worker.host.name for worker in self.workers},
            token_bytes=CHUNK_BYTES / CHUNK,
            observers=tuple(host.observe for host in self.hosts),
            embedder=self.embedder,
            tokenizer=simple(),
            versions=self.versions,
            secret=SECRET,
            telemetry=self.telemetry,
            shared_counts=self.shared_counts,
        )
        try:
            self.apps = create_apps(self.config, parts, now=self.now)
            async with (
                serving(self.apps.operators) as self.admin_url,
                serving(self.apps.tenants) as self.url,
                aiohttp.ClientSession() as self.session,
            ):
                yield self
        finally:
            self.telemetry.close()
            await self.store.close()

    async def new_key(self, tenant: str, scopes: tuple[str, ...] = TENANT_SCOPES, **fields: Any) -> str:
        """`fields`: of the record."""
        key, record = keys.new_key(SECRET, TenantId(tenant), name="test", scopes=scopes, now=0.0, **fields)
        await self.store.add_key(record)
        return key

    async def revoke(self, key: str) -> None:
        """As another process would."""
        await self.store.change_key(key.split("_")[2], lambda record: replace(record, revoked_at=1.0))

    def request(self, method: str, path: str, *, key: str | None = None, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {key or self.key}", **more.pop("headers", {})}
        return self.session.request(method, self.url + path, headers=headers, **more)

    async def json(self, method: str, path: str, *, status: int = 200, **more: Any) -> Any:
        """The answer's JSON, after its status was asserted."""
        async with self.request(method, path, **more) as response:
            text = await response.text()
            assert response.status == status, f"{response.status}: {text}"
            return json.loads(text)

    async def health(self, *, status: int = 200) -> Any:
        """All that the operators' listener tells of it."""
        async with self.session.get(f"{self.admin_url}/health/ready") as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def metrics(self) -> str:
        async with self.session.get(f"{self.admin_url}/metrics") as response:
            assert response.status == 200
            return await response.text()

    async def ready(self) -> bool:
        async with self.session.get(f"{self.url}/health/ready") as response:
            return response.status == 200

    async def add(self, text: str, *, ready: bool = True, **fields: Any) -> Any:
        """Post a document; by default wait until it can be asked."""
        key = fields.pop("key", None)
        document = await self.json("POST", "/v1/documents", json={"text": text, **fields}, status=202, key=key)
        if ready:
            assert await self.finished(document["job"]["id"], key=key) == "ready"
        return document

    async def finished(self, job: str, *, key: str | None = None) -> str:
        """How a job ended, from its events."""
        return (await self.events(job, key=key))[-1][0]

    async def events(self, job: str, *, key: str | None = None) -> list[tuple[str, Any]]:
        timeout = aiohttp.ClientTimeout(total=20)  # a reading that never ends fails its test, not the whole run
        async with self.request("GET", f"/v1/jobs/{job}/events", key=key, timeout=timeout) as response:
            assert response.status == 200, await response.text()
            return sse(await response.text())

    async def ask(
        self, question: str, *, status: int = 200, key: str | None = None, headers: dict[str, str] | None = None, **fields: Any
    ) -> Any:
        """Ask without streaming; the answer's JSON with its headers under "headers"."""
        body = {"messages": [{"role": "user", "content": question}], **fields}
        async with self.request("POST", "/v1/chat/completions", json=body, key=key, headers=headers or {}) as response:
            answer = await response.json(content_type=None)
            assert response.status == status, answer
            await booked()
            return {**answer, "headers": {name.lower(): value for name, value in response.headers.items()}}


def without_tiers(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Documents as they are shown, but for where their KV is believed to be: that is found out anew after a restart."""
    return [{name: value for name, value in document.items() if name != "tiers"} for document in documents]


async def booked() -> None:
    """Let the gateway write the span and the metrics of what it has just answered: it does so after the last byte."""
    for _ in range(20):
        await asyncio.sleep(0)


async def eventually(holds: Callable[[], Any], *, within_s: float = 5.0) -> None:
    """Return once `holds()` (or what it gives to await) is true; fails after `within_s`. For what has no event to wait for."""
    async with asyncio.timeout(within_s):
        while True:
            found = holds()
            if await found if isawaitable(found) else found:
                return
            await asyncio.sleep(0.005)


def sse(text: str) -> list[tuple[str, Any]]:
    """(event, data) of each server-sent event; data decoded where it is JSON."""
    found = []
    for block in text.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        data = fields.get("data", "")
        found.append((fields.get("event", "message"), json.loads(data) if data.startswith(("{", "[{")) else data))
    return found


class _Server(GatewayServer):
    """Ends at once, where uvicorn looks ten times a second whether it should: there are hundreds of gateways in a run."""

    def __init__(self, app: Litestar) -> None:
        super().__init__(app, grace_s=2)
        self.ended = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The gateway's own where somebody is connected. Where nobody is, uvicorn would wait a tenth of a second for them."""
        for _ in range(20):  # its clients have left: it sees their connections close
            if not (self.server_state.connections or self.server_state.tasks):
                break
            await asyncio.sleep(0)
        else:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
            await server.wait_closed()
        await self.lifespan.shutdown()


@asynccontextmanager
async def serving(app: Litestar) -> AsyncIterator[str]:
    """The app on a free port of the loopback interface; its URL."""
    with listen("127.0.0.1", 0) as listener:
        server = _Server(app)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await server.ready.wait()
            assert server.started, "the application did not start"
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            server.ended.set()
            await task
