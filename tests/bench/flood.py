"""One tenant sends fifty questions at a time, on the real engine: how long another's questions take to their first token, beside and alone.

Both ask warm documents of their own. `make bench ARGS=fairness` compares with first come first served, in a simulated engine.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path

from tests.bench import measure
from tests.engine.conftest import PROTOCOL, RealGateway

AT_ONCE = 50
QUESTIONS = 60
ANSWER_TOKENS = 32
QUESTION = "What is this document about?"


async def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        gateway = RealGateway(Path(folder), workers=1)
        await gateway.start()
        try:
            text = (await asyncio.to_thread(PROTOCOL.read_text, "utf-8"))[:6000]
            other = await gateway.new_key("tenant-b")
            await gateway.read("quiet", text)
            await gateway.read("flood", text, key=other)
            alone = await _asked(gateway)
            flooding = [asyncio.create_task(_flood(gateway, other)) for _ in range(AT_ONCE)]
            await asyncio.sleep(5)  # the flood is at its height
            beside = await _asked(gateway)
            served = sum(task.done() for task in flooding)
            for task in flooding:
                task.cancel()
            ended = await asyncio.gather(*flooding, return_exceptions=True)
            failed = [one for one in ended if isinstance(one, Exception)]
        finally:
            await gateway.stop()
    rows = []
    for name, seconds in (("alone", alone), ("beside 50", beside)):
        p95 = statistics.quantiles(seconds, n=20)[-1]
        rows.append([name, f"{statistics.median(seconds):.3f}", f"{p95:.3f}"])
    ratios = [f"{float(beside_of) / float(alone_of):.1f} ×" for alone_of, beside_of in zip(rows[0][1:], rows[1][1:], strict=True)]
    measure.show(f"seconds to the first token, {QUESTIONS} questions", ("", "p50", "p95"), [*rows, ["ratio", *ratios]])
    if served or failed:
        measure.console.print(f"The flood did not last: {served} of its clients ended early, {failed[:1]}")


async def _asked(gateway: RealGateway) -> list[float]:
    """One after the other."""
    return [(await gateway.ask(QUESTION, document="quiet", max_tokens=ANSWER_TOKENS))["first_token_s"] for _ in range(QUESTIONS)]


async def _flood(gateway: RealGateway, key: str) -> None:
    """As a client that sends at once again what was refused, a tenth of a second later."""
    url, headers = f"{gateway.url}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    body = {"messages": [{"role": "user", "content": QUESTION}], "document": "flood", "max_tokens": ANSWER_TOKENS, "stream": True}
    while True:
        async with gateway.session.post(url, json=body, headers=headers) as response:
            await response.read()
            assert response.status in (200, 429), response.status
        if response.status == 429:
            await asyncio.sleep(0.1)
