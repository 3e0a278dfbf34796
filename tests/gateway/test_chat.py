"""Questions over HTTP, as a client sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine import CHUNK
from tests.fakes.gateway import CONTEXT, Gateway, sse

LEASE = "# Lease\n\nThe deposit is 2,400 euros. The rent is 1,200 euros."
POLICY = "# Expenses\n\nMeals are paid up to 40 euros. Taxis need a receipt."


def question(text: str = "What is the deposit?", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


async def test_a_named_document_answers(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    answer = await gateway.ask("What is the deposit?", document="lease")
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "It is so.", "refusal": None}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["headers"]["x-document-id"] == "lease"
    assert answer["headers"]["x-cache-tier"] == "ram"
    assert len(answer["headers"]["x-request-id"]) == 32


async def test_usage_tells_the_whole_padded_prefix_as_cached(gateway: Gateway) -> None:
    document = await gateway.add(LEASE, id="lease")
    usage = (await gateway.ask("What is the deposit?", document="lease"))["usage"]
    # A chunk of the instruction, which every question shares, may be cached beyond it.
    assert document["prefix_tokens"] <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_a_question_without_a_document_finds_it(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await gateway.add(POLICY, id="policy")
    answer = await gateway.ask("How much are meals?")
    assert answer["headers"]["x-document-id"] == "policy"
    assert 0 < float(answer["headers"]["x-route-score"]) <= 1


async def test_a_question_that_fits_nothing_is_404_with_the_best_scores(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    error = (await gateway.ask("Quantum chromodynamics lattice?", status=404))["error"]
    assert error["code"] == "document_not_found"
    assert [candidate["document"] for candidate in error["candidates"]] == ["lease"]


async def test_a_question_that_fits_two_alike_is_409_with_both(gateway: Gateway) -> None:
    await gateway.add(LEASE + "\n\nNorth.", id="north")
    await gateway.add(LEASE + "\n\nSouth.", id="south")
    error = (await gateway.ask("What is the deposit in euros?", status=409))["error"]
    assert error["code"] == "document_ambiguous"
    assert {candidate["document"] for candidate in error["candidates"]} == {"north", "south"}


async def test_a_stream_has_openais_shape(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    body = question(document="lease", stream=True, stream_options={"include_usage": True})
    async with gateway.request("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"] == "text/event-stream"
        events = [data for _, data in sse(await response.text())]
    assert {event["object"] for event in events[:-1]} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events[:-1]}) == 1
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1] if e["choices"]) == "It is so."
    assert [e["choices"][0]["finish_reason"] for e in events[:-1] if e["choices"]] == [None, None, None, None, "stop"]
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert events[-1] == "[DONE]"


async def test_a_stream_tells_usage_only_when_asked(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    async with gateway.request("POST", "/v1/chat/completions", json=question(document="lease", stream=True)) as response:
        assert "usage" not in await response.text()


async def test_logprobs_come_in_openais_shape(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    answer = await gateway.ask("What?", document="lease", logprobs=True, top_logprobs=1)
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in tokens] == ["It ", "is ", "so."]
    assert tokens[0] == {
        "token": "It ",
        "logprob": -0.5,
        "bytes": [73, 116, 32],
        "top_logprobs": [{"token": "It ", "logprob": -0.5, "bytes": [73, 116, 32]}],
    }


async def test_the_upstream_body_holds_what_is_meant_and_nothing_else(gateway: Gateway) -> None:
    document = await gateway.add(LEASE, id="lease")
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["\n"], "max_tokens": 2, "presence_penalty": 0.1}
    answer = await gateway.ask("What?", document="lease", user="someone", **fields)
    body = gateway.workers[0].bodies[-1]
    prompt, salt = body.pop("prompt"), body.pop("cache_salt")
    assert body == {
        "model": "small",
        "max_tokens": 2,
        "kv_transfer_params": {"lmcache.max_offload_tokens": document["prefix_tokens"]},
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["\n"],
        "presence_penalty": 0.1,
    }
    assert len(prompt) > document["prefix_tokens"]
    assert len(salt) == 64
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_every_question_to_a_version_begins_with_the_same_tokens(gateway: Gateway) -> None:
    document = await gateway.add(LEASE, id="lease")
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the rent?"},
        {"role": "assistant", "content": "1,200 euros."},
        {"role": "user", "content": "And the deposit?"},
    ]
    await gateway.ask("What is the deposit?", document="lease")
    await gateway.json("POST", "/v1/chat/completions", json={"messages": conversation, "document": "lease"})
    first, second = (body["prompt"] for body in gateway.workers[0].bodies[-2:])
    prefix = document["prefix_tokens"]
    assert first[:prefix] == second[:prefix]
    assert first[prefix:] != second[prefix:]


async def test_text_parts_are_joined(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the deposit?"}]
    body = {"messages": [{"role": "user", "content": parts}], "document": "lease"}
    await gateway.json("POST", "/v1/chat/completions", json=body)
    await gateway.ask("What is\nthe deposit?", document="lease")
    first, second = (body["prompt"] for body in gateway.workers[0].bodies[-2:])
    assert first == second


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": []}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"cache_salt": "x"}, "cache_salt"),
        ({"kv_transfer_params": {}}, "kv_transfer_params"),
        ({"n": 2}, "n"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(gateway: Gateway, fields: dict[str, Any], named: str) -> None:
    error = (await gateway.ask("What?", status=400, **fields))["error"]
    assert error["code"] == "unsupported_parameter"
    assert error["param"] == named
    assert f"`{named}`" in error["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{}", "`messages`"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "tool", "content": "x"}]}', "role"),
        (b'{"messages": [{"role": "system", "content": "x"}]}', "role `user`"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "image_url"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": 3}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens"),
        (b'{"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}', "logprobs"),
        (b'{"messages": [{"role": "user", "content": "x"}], "stop": ["1", "2", "3", "4", "5"]}', "stop"),
    ],
)
async def test_a_bad_body_is_400_and_says_what_is_wrong(gateway: Gateway, body: bytes, says: str) -> None:
    error = (await gateway.json("POST", "/v1/chat/completions", data=body, status=400))["error"]
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


async def test_unknown_documents_and_models_are_404(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    assert (await gateway.ask("What?", document="nothing", status=404))["error"]["param"] == "document"
    assert (await gateway.ask("What?", document="lease", model="gpt-9", status=404))["error"]["param"] == "model"


async def test_a_question_that_does_not_fit_the_context_says_both_numbers(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    error = (await gateway.ask("why? " * CONTEXT, document="lease", status=400))["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["limit"] == CONTEXT
    assert error["tokens"] > CONTEXT
    assert (await gateway.ask("why?", document="lease", max_tokens=CONTEXT, status=400))["error"]["limit"] == CONTEXT


async def test_an_answer_gets_the_rest_of_the_context_unless_told(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    await gateway.ask("why?", document="lease")
    body = gateway.workers[0].bodies[-1]
    assert body["max_tokens"] == CONTEXT - len(body["prompt"])


async def test_a_document_that_is_still_read_is_409_with_its_job(gateway: Gateway) -> None:
    gateway.workers[0].problem = "is down"
    document = await gateway.add(LEASE, id="lease", ready=False)
    answer = await gateway.ask("why?", document="lease", status=409)
    assert answer["error"]["code"] == "document_not_ready"
    assert answer["error"]["job"] == document["job"]["id"]
    assert int(answer["headers"]["retry-after"]) > 0


async def test_no_cache_is_answered_with_nothing_reused_and_nothing_kept(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    kept = {salt: set(chunks) for salt, chunks in gateway.host.disk.items()}
    answer = await gateway.ask("why?", document="lease", headers={"cache-control": "no-cache"})
    assert answer["headers"]["x-cache-tier"] == "none"
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert gateway.host.disk == kept


async def test_no_cache_is_refused_where_it_is_not_allowed(tmp_path: Path) -> None:
    async with Gateway(tmp_path, allow_cache_bypass=False).running() as gateway:
        await gateway.add(LEASE, id="lease")
        answer = await gateway.ask("why?", document="lease", headers={"cache-control": "no-cache"}, status=400)
        assert "allow_cache_bypass" in answer["error"]["message"]


async def test_two_tenants_with_the_same_text_share_no_kv(gateway: Gateway) -> None:
    await gateway.add(LEASE, id="lease")
    other = await gateway.new_key("tenant-b")
    await gateway.add(LEASE, id="lease", key=other)
    salts = {body["cache_salt"] for body in gateway.workers[0].bodies}
    assert len(salts) == 2
    first_segments = [body for body in gateway.workers[0].bodies if len(body["prompt"]) == CHUNK]
    assert len(first_segments) == 2


async def test_other_methods_are_405(gateway: Gateway) -> None:
    await gateway.json("GET", "/v1/chat/completions", status=405)
