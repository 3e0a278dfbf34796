"""JSON that means harm: a 400 with a sentence, never a 500 and never a hang, whichever route it is sent to."""

from __future__ import annotations

import io
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.api.chat_api import ChatRequest
from tests.fakes.gateway import CONTEXT, Gateway

CHAT, ROUTE, DOCUMENTS, FIT = "/v1/chat/completions", "/v1/route", "/v1/documents", "/v1/route/fit"
ASKED = b'{"document": "lease", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]'
DEEP = 100_000


@pytest.fixture(scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    async with Gateway(tmp_path_factory.mktemp("standing")).running() as running:
        await running.add("# Lease\n\nThe deposit is 2,400 euros.", id="lease")
        yield running


async def refused(gateway: Gateway, path: str, body: bytes, *, method: str = "POST") -> str:
    """The sentence of its 400."""
    headers = {"content-type": "application/json"}
    error = (await gateway.json(method, path, data=io.BytesIO(body), headers=headers, status=400))["error"]
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 1000, "it is repeated to whoever sent it"
    return str(error["message"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": %b}]}]}'),
        (CHAT, b'{"messages": %b}'),
        (CHAT, b"%b"),
        (ROUTE, b'{"question": %b}'),
        (FIT, b'{"questions": [{"question": "x", "document": null, "y": %b}]}'),
        (DOCUMENTS, b'{"text": "x", "y": %b}'),
        (DOCUMENTS, b'{"tags": %b}'),
        (DOCUMENTS + "/lease/warm", b'{"tier": %b}'),
    ],
)
@pytest.mark.parametrize(
    "nested",
    [b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP],
    ids=["[", "[]", "{", "{}"],
)
async def test_deep_nesting_is_400(standing: Gateway, path: str, body: bytes, nested: bytes) -> None:
    assert await refused(standing, path, body % nested)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (b'"seed": 9223372036854775808', "seed"),
        (b'"seed": -9223372036854775809', "seed"),
        (b'"seed": ' + b"9" * 1_000_000, "seed"),
        (b'"max_tokens": 1%b' % (b"0" * 40), "max_tokens"),
        (b'"temperature": 1e' + b"9" * 1_000_000, "temperature"),
        (b'"temperature": NaN', "not valid JSON"),
        (b'"top_p": Infinity', "not valid JSON"),
        (b'"n": 1%b' % (b"0" * 40), "n"),
        (b'"stop": "%b"' % (b"x" * 1001), "stop"),
        (b'"stop": ["%b"]' % (b"x" * 1_000_000), "stop"),
        (b'"user": "\\ud800"', "not valid JSON"),
        (b'"user": "\\udfff\\ud800"', "not valid JSON"),
        (b'"user": "\xed\xa0\x80"', "not valid JSON"),
        (b'"user": "\xff"', "not valid JSON"),
        (b'"user": "\0"', "not valid JSON"),
        (b'"\xff": 1', "not valid JSON"),
        (b", ".join(b'"k%d": 1' % number for number in range(100_000)), "`k0`"),
        (b'"%b": 1' % (b"k" * 500), "not supported"),
    ],
)
async def test_numbers_strings_and_names_that_no_field_holds_are_400(standing: Gateway, field: bytes, words: str) -> None:
    assert words in await refused(standing, CHAT, ASKED + b", " + field + b"}")


async def test_of_a_field_that_stands_twice_the_last_counts_everywhere(standing: Gateway) -> None:
    """Nothing behind the gateway reads the client's JSON, so there is no second reading of it to fool."""
    answer = await standing.json(
        "POST", CHAT, data=ASKED.replace(b'"document": "lease"', b'"document": "x", "document": "lease"') + b"}"
    )
    assert answer["choices"]
    await standing.json("POST", CHAT, data=ASKED + b', "document": "x"}', status=404)


async def test_messages_far_longer_than_the_context_are_refused_by_their_beginning(standing: Gateway) -> None:
    for messages in ([{"role": "user", "content": "a-" * 4_000_000}], [{"role": "user", "content": "a"}] * 100_000):
        words = await refused(standing, CHAT, json.dumps({"document": "lease", "messages": messages}).encode())
        assert f"context is {CONTEXT} tokens; your messages alone take about" in words


async def test_what_is_unknown_is_not_repeated_at_length(standing: Gateway) -> None:
    for fields in ({"document": "a" * 1_000_000}, {"model": "a" * 1_000_000}):
        error = (await standing.ask("x", status=404, **fields))["error"]
        assert len(error["message"]) < 1000
    assert len((await standing.json("GET", f"/v1/jobs/{'a' * 8_000}", status=404))["error"]["message"]) < 1000


async def test_two_thousand_broken_bodies_are_never_a_500(standing: Gateway) -> None:
    """Good ones with bytes changed, cut, doubled and put in: whatever comes of them is an answer or a refusal."""
    rng = random.Random(5)  # noqa: S311 - the same bodies each time
    good = [
        (CHAT, ASKED + b', "stop": ["\\n"], "logprobs": true, "top_logprobs": 2, "stream_options": {"include_usage": true}}'),
        (ROUTE, b'{"question": "What is the deposit?", "earlier": ["x"]}'),
        (
            DOCUMENTS,
            b'{"id": "lease", "text": "# Lease", "title": "T", "tags": ["a"], "ttl_s": 5.5, "expire_at": "2031-01-01T00:00:00Z"}',
        ),
        (DOCUMENTS + "/lease/evict", b'{"tier": "ram"}'),
    ]
    pieces = [
        b"\0",
        b"\xff",
        b"\\u0000",
        b"\\ud800",
        b"null",
        b"1e999",
        b"-0",
        b"[]",
        b"{}",
        b'"',
        b"\xe2\x80\xae",
        b"true",
        b"9" * 30,
    ]
    for _ in range(2000):
        path, body = rng.choice(good)
        changed: Any = bytearray(body)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(changed) + 1)
            match rng.randrange(4):
                case 0:
                    changed[at:at] = rng.choice(pieces)
                case 1:
                    changed[at : at + rng.randrange(1, 9)] = rng.choice(pieces)
                case 2:
                    del changed[at:]
                case _:
                    changed[at:at] = changed[at : at + rng.randrange(1, 20)]
        headers = {"content-type": "application/json"}
        async with standing.request("POST", path, data=bytes(changed), headers=headers) as response:
            assert response.status in (200, 202, 400, 404, 409, 415), (path, bytes(changed), await response.text())


def test_the_fields_that_are_known_are_these() -> None:
    """One more is a decision: it needs a place in `router/upstream.py`, or a word on why it has none."""
    assert set(ChatRequest.__struct_fields__) == {
        *("messages", "model", "document", "documents", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
        *("temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "n", "user"),
    }
