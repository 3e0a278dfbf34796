"""The unmodified `openai` client against the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest

from tests.fakes.gateway import Gateway

LEASE = "# Lease\n\nThe deposit is 2,400 euros."


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    await gateway.add(LEASE, id="lease")
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        yield client


async def test_a_question(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="small",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the deposit?"}],
        extra_body={"document": "lease"},
        temperature=0,
        seed=1,
        stop=["\n\n"],
        max_completion_tokens=20,
    )
    assert answer.choices[0].message.content == "It is so."
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) > 0


async def test_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "What is the deposit?"}],
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=1,
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "It is so."
    logprobs = [
        token.logprob for c in chunks if c.choices and c.choices[0].logprobs for token in c.choices[0].logprobs.content or []
    ]
    assert logprobs == [-0.5, -0.5, -0.5]
    assert chunks[-1].usage is not None


async def test_the_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["small"]


async def test_errors_are_the_clients_own(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    ask = client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="nothing"):
        await ask(model="small", messages=[{"role": "user", "content": "?"}], extra_body={"document": "nothing"})
    with pytest.raises(openai.BadRequestError, match="`tools`"):
        await ask(model="small", messages=[{"role": "user", "content": "?"}], tools=[])
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="kvs_live_x").models.list()
    gateway.workers[0].problem = "is down"
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(model="small", messages=[{"role": "user", "content": "?"}], extra_body={"document": "lease"})
    assert caught.value.status_code == 503
