"""Questions over HTTP, as a client sees them."""

from __future__ import annotations

from tests.fakes.gateway import Gateway, sse

LEASE = "# Lease\n\nThe deposit is 2,400 euros. The rent is 1,200 euros."
POLICY = "# Expenses\n\nMeals are paid up to 40 euros. Taxis need a receipt."


async def test_a_named_document_answers(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    answer = await gateway.ask("What is the deposit?", document="lease")
    assert answer["choices"][0]["message"]["content"] == "It is so."
    assert answer["headers"]["x-document-id"] == "lease"
    assert answer["headers"]["x-cache-tier"] == "ram"


async def test_a_question_without_a_document_finds_it(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await gateway.add(POLICY, id="policy")
    answer = await gateway.ask("How much are meals?")
    assert answer["headers"]["x-document-id"] == "policy"
    assert 0 < float(answer["headers"]["x-route-score"]) <= 1


async def test_a_stream_has_openais_shape(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    body = {
        "messages": [{"role": "user", "content": "hm?"}],
        "document": "lease",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with gateway.request("POST", "/v1/chat/completions", json=body) as response:
        events = [data for _, data in sse(await response.text())]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1] if e["choices"]) == "It is so."
    assert events[-3]["choices"][0]["finish_reason"] == "stop"
    assert events[-2]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert events[-1] == "[DONE]"
