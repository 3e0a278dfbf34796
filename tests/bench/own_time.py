"""What the gateway itself costs, before a worker that costs next to nothing (`tests/bench/upstream.py`).

Gateway and worker are processes of their own; the same client asks the worker directly and through the gateway, in
turn. The direct call sends the same bytes that the gateway sends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from tests.bench import measure

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".kvshelf" / "models" / "smollm2"
ROUNDS = 1500
CONNECTIONS = 32
SECONDS = 6.0
SIZES = {"short": 1_000, "long": 100_000}
"""Documents, by their rough size in tokens."""

_CONFIG = """
data_path: data
model: {{name: m, path: {model}, context_tokens: 131072}}
engine: {{workers: [{{name: worker-1, url: "http://127.0.0.1:{worker}"}}]}}
server: {{port: {gateway}, max_body_mib: 64}}
telemetry: {{log_level: warning}}
"""


async def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with _processes(Path(folder)) as (session, gateway, worker, key):
            headers = {"authorization": f"Bearer {key}"}
            for name, tokens in SIZES.items():
                await _read(session, gateway, headers, name, tokens)
            rows = []
            added = {}
            for name in SIZES:
                body = await _same_body(Path(folder), name)
                exchanges = (_direct(session, worker, body), _through(session, gateway, headers, name))
                direct, through = await measure.alternately([lambda e=e: measure.timed(e) for e in exchanges], ROUNDS, warm_up=100)
                added[name] = through.p50 - direct.p50
                rows.append(
                    [
                        f"{name} document ({SIZES[name]:,} tokens)",
                        *(f"{ms * 1e3:.2f}" for ms in (direct.p50, through.p50, added[name], through.p99 - direct.p99)),
                    ]
                )
            measure.show(
                "One connection, ms",
                ["", "worker alone p50", "through the gateway p50", "difference of p50", "difference of p99"],
                rows,
            )
            measure.console.print(f"a long document adds {added['long'] / added['short']:.2f} × what a short one does")
            body = await _same_body(Path(folder), "short")
            rates = [
                await measure.at_once(exchange, connections=CONNECTIONS, seconds=SECONDS)
                for exchange in (_direct(session, worker, body), _through(session, gateway, headers, "short"))
            ]
            measure.show(
                f"{CONNECTIONS} connections, requests a second (the client and the worker share the two cores)",
                ["", "worker alone", "through the gateway", "ratio"],
                [["not streamed", f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{rates[1] / rates[0]:.2f}"]],
            )


def _direct(session: aiohttp.ClientSession, worker: str, body: bytes) -> Callable[[], Awaitable[None]]:
    async def exchange() -> None:
        async with session.post(f"{worker}/v1/completions", data=body, headers={"content-type": "application/json"}) as response:
            assert (await response.read()).endswith(b"[DONE]\n\n")

    return exchange


def _through(session: aiohttp.ClientSession, gateway: str, headers: dict[str, str], document: str) -> Callable[[], Awaitable[None]]:
    body = {"messages": [{"role": "user", "content": "What is it?"}], "document": document, "max_tokens": 16}

    async def exchange() -> None:
        async with session.post(f"{gateway}/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            await response.read()

    return exchange


async def _same_body(folder: Path, name: str) -> bytes:
    """What the gateway sends for this document, short of the question."""
    from backends.store.sql_store import SqlStore
    from router.prompts import ids_from_bytes
    from router.upstream import body, opening

    store = SqlStore(f"sqlite+aiosqlite:///{folder / 'data' / 'kvshelf.db'}")
    await store.open()
    try:
        (version,) = [d.current for d in await store.documents() if d.id == name and d.current]
        ids = ids_from_bytes((await store.content(version.id)).prefix_ids)
    finally:
        await store.close()
    return b"".join(body(opening("m", ids), list(range(40)), salt=version.salt, keep_tokens=version.prefix_tokens, max_tokens=16))


async def _read(session: aiohttp.ClientSession, gateway: str, headers: dict[str, str], name: str, tokens: int) -> None:
    text = f"# {name}\n\n" + "word " * tokens
    async with session.post(f"{gateway}/v1/documents", json={"id": name, "text": text}, headers=headers) as response:
        assert response.status == 202, await response.text()
        job = (await response.json())["job"]["id"]
    async with session.get(f"{gateway}/v1/jobs/{job}/events", headers=headers) as response:
        assert "event: ready" in await response.text()


@asynccontextmanager
async def _processes(folder: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, str, str, str]]:
    """(client, gateway's URL, worker's URL, key), with both processes running."""
    worker_port, gateway_port = _free_port(), _free_port()
    config = folder / "bench.yaml"
    await asyncio.to_thread(config.write_text, _CONFIG.format(model=MODEL, worker=worker_port, gateway=gateway_port))
    async with AsyncExitStack() as cleanup:
        for arguments in (("tests.bench.upstream", str(worker_port)), ("gateway", "serve", str(config))):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
            cleanup.push_async_callback(_end, process)
        session = await cleanup.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        gateway = f"http://127.0.0.1:{gateway_port}"
        await measure.until_ok(session, f"{gateway}/health/ready", within_s=60)
        made = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "keys", "create", str(config), "bench"), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        key = (await made.communicate())[0].decode().strip()
        yield session, gateway, f"http://127.0.0.1:{worker_port}", key


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
