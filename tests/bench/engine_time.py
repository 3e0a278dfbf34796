"""The real engine: time to the first token through the gateway and without it, cold and warm, and while a document is read.

The direct call sends the worker the very bytes that the gateway sends, in turn with it, in one run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from backends.store.sql_store import SqlStore
from backends.tokenizer import load
from gateway.config import database_url
from router.prompts import derive, ids_from_bytes, suffix_ids
from router.upstream import Sampling, body, opening
from tests.bench import measure
from tests.engine.conftest import CONTRACT, RealGateway

ROUNDS = 20
QUESTION = "What is the number of this contract?"
MANUAL = CONTRACT.with_name("product-manual.md")


async def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        gateway = RealGateway(Path(folder), workers=1)
        await gateway.start()
        try:
            text = await asyncio.to_thread(CONTRACT.read_text, "utf-8")
            other = await asyncio.to_thread(MANUAL.read_text, "utf-8")
            started = time.perf_counter()
            document = await gateway.read("contract", text)
            alone_s = time.perf_counter() - started
            await _compare(gateway, document["prefix_tokens"])
            await _while_reading(gateway, text, other, alone_s)
        finally:
            await gateway.stop()


async def _compare(gateway: RealGateway, prefix_tokens: int) -> None:
    direct = await _direct(gateway)

    async def through() -> float:
        answer = await gateway.ask(QUESTION, document="contract")
        return float(answer["first_token_s"])

    alone, added = await measure.alternately([direct, through], ROUNDS, warm_up=2)
    cold = await gateway.ask(QUESTION, document="contract", cold=True)
    rows = [
        ["cold, through the gateway", f"{cold['first_token_s']:.2f}", "", "1"],
        ["warm, the bare engine", f"{alone.p50:.3f}", "1.00", f"{cold['first_token_s'] / alone.p50:.0f}"],
        [
            "warm, through the gateway",
            f"{added.p50:.3f}",
            f"{added.p50 / alone.p50:.2f}",
            f"{cold['first_token_s'] / added.p50:.0f}",
        ],
    ]
    measure.show(
        f"First token of {prefix_tokens:,} tokens, s (median of {ROUNDS})", ["", "s", "× bare engine", "× faster than cold"], rows
    )


async def _direct(gateway: RealGateway) -> Callable[[], Awaitable[float]]:
    """The worker asked without the gateway, with the gateway's own bytes."""
    tokenizer = load(gateway.config.model.path)
    store = SqlStore(database_url(gateway.config))
    await store.open()
    try:
        (version,) = [d.current for d in await store.documents() if d.current is not None]
        ids = ids_from_bytes((await store.content(version.id)).prefix_ids)
    finally:
        await store.close()
    suffix = suffix_ids(derive(tokenizer, 256), tokenizer, [{"role": "user", "content": QUESTION}])
    parts = body(
        opening("smollm2", ids), suffix, salt=version.salt, keep_tokens=len(ids), max_tokens=8, sampling=Sampling(temperature=0)
    )
    ((_, url),) = gateway.stack.workers

    async def exchange() -> float:
        first_s = 0.0
        started = time.perf_counter()
        async with gateway.session.post(
            f"{url}/v1/completions", data=b"".join(parts), headers={"content-type": "application/json"}
        ) as response:
            async for line in response.content:
                if not first_s and line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]:
                    first_s = time.perf_counter() - started
        return first_s

    return exchange


async def _while_reading(gateway: RealGateway, text: str, other: str, alone_s: float) -> None:
    """Warm questions to one document on the one worker, one after another, while a second one is read."""
    await gateway.read("manual", other)
    idle = measure.Times([float((await gateway.ask(f"What is part {n}?", document="manual"))["first_token_s"]) for n in range(5)])
    seconds: list[float] = []
    started = time.perf_counter()
    reading = asyncio.create_task(gateway.read("contract-again", text + "\n\nEnd."))
    for number in itertools.count():
        answer = await gateway.ask(f"What is section {number}?", document="manual")
        if reading.done():
            break
        seconds.append(float(answer["first_token_s"]))
        await asyncio.sleep(1.0)  # a person reads the answer
    await reading
    meanwhile, took_s = measure.Times(seconds), time.perf_counter() - started
    p95 = sorted(meanwhile.seconds)[int(len(seconds) * 0.95)]
    rows = [
        ["nothing is read", f"{idle.p50:.2f}", "", "", ""],
        [
            f"while it is read ({len(seconds)} questions)",
            f"{meanwhile.p50:.2f}",
            f"{p95:.2f}",
            f"{took_s:.1f}",
            f"{took_s / alone_s:.2f}",
        ],
        ["the reading alone", "", "", f"{alone_s:.1f}", "1.00"],
    ]
    measure.show("Warm questions while another document is read, s", ["", "p50", "p95", "reading", "× alone"], rows)
