"""One question over several documents, on the real engine: each from its own KV, the answers joined by one more question."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from tests.engine.conftest import ROOT, RealGateway
from tests.fakes.gateway import eventually

SAMPLES = ROOT / "configs" / "demo" / "documents"
NAMES = ("apartment-lease", "security-policy", "expense-policy")
QUESTION = "What does this document say about notice, deadlines or days?"


async def ask(engine: RealGateway, documents: list[str], **fields: Any) -> dict[str, Any]:
    """Streaming: the sources, the text, the usage, the seconds to the first event."""
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "documents": documents,
        "temperature": 0,
        "max_tokens": 48,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }
    headers = {"authorization": f"Bearer {engine.key}"}
    got: dict[str, Any] = {"text": ""}
    started = time.perf_counter()
    async with engine.session.post(f"{engine.url}/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        got |= {"document-id": response.headers["x-document-id"], "cache-tier": response.headers["x-cache-tier"]}
        async for line in response.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                got.setdefault("first_token_s", time.perf_counter() - started)
                got.setdefault("sources", event.get("sources"))
                got["text"] += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                got["usage"] = event.get("usage")
    return got


async def test_each_document_answers_from_its_own_kv_and_the_answers_are_joined(engine: RealGateway) -> None:
    before, documents = engine.files(), {}
    for name in NAMES:
        text = await asyncio.to_thread((SAMPLES / f"{name}.md").read_text, "utf-8")
        documents[name] = await engine.read(name, text)
    stored = engine.files()
    answer = await ask(engine, list(NAMES))
    print(json.dumps(answer, indent=1))
    assert answer["document-id"] == ",".join(NAMES)
    assert answer["text"].strip()
    assert [source["document"] for source in answer["sources"]] == list(NAMES)
    for source in answer["sources"]:
        # Nothing of the document is read again.
        assert documents[source["document"]]["prefix_tokens"] <= source["cached_tokens"] < source["prompt_tokens"]
        assert source["answer"].strip()
        assert 0 < source["completion_tokens"] <= engine.config.gathering.part_tokens
        alone = await engine.ask(QUESTION, document=source["document"], max_tokens=16)
        assert source["answer"].startswith(alone["text"])
    usage = answer["usage"]
    parts = sum(source["prompt_tokens"] for source in answer["sources"])
    joining = usage["prompt_tokens"] - parts
    assert sum(source["completion_tokens"] for source in answer["sources"]) < joining < 2000
    assert usage["prompt_tokens_details"]["cached_tokens"] == sum(source["cached_tokens"] for source in answer["sources"])
    assert engine.files() == stored  # neither the parts' questions nor the joining one was kept
    for name in NAMES:
        await engine.remove(name)
    await eventually(lambda: engine.files() == before, within_s=30)
