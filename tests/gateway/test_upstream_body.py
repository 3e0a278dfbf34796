"""What reaches a worker of what a client sends: typed fields that are known, byte for byte, and the salt of the version asked."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.chat_api import ChatRequest, parse
from router.documents import Salt
from router.errors import InvalidRequest
from router.upstream import body, opening
from tests.fakes.gateway import Gateway

LEASE = "# Lease\n\nThe deposit is 2,400 euros. The rent is 1,200 euros."
OURS = ("model", "prompt", "max_tokens", "cache_salt", "kv_transfer_params", "stream", "stream_options")
DRAWN = ("temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty", "logprobs")
STEERING = (
    *(
        "cache_salt",
        "kv_transfer_params",
        "prompt",
        "prompt_logprobs",
        "prompt_embeds",
        "n",
        "best_of",
        "echo",
        "lora",
        "lora_request",
    ),
    *(
        "extra_args",
        "priority",
        "add_special_tokens",
        "guided_json",
        "structured_outputs",
        "logits_processors",
        "logit_bias",
        "min_tokens",
    ),
    *(
        "ignore_eos",
        "return_token_ids",
        "truncate_prompt_tokens",
        "allowed_token_ids",
        "include_stop_str_in_output",
        "request_id",
        "tools",
    ),
    *(
        "chat_template",
        "chat_template_kwargs",
        "mm_processor_kwargs",
        "vllm_xargs",
        "suffix",
        "use_beam_search",
        "bad_words",
        "__class__",
    ),
)

EVERY_FIELD: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief.", "name": "operator"},
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "the deposit?"}]},
        {"role": "assistant", "content": "2,400 euros."},
        {"role": "developer", "content": "In French."},
        {"role": "user", "content": "And the rent?"},
    ],
    "model": "small",
    "document": "lease",
    "stream": True,
    "stream_options": {"include_usage": False},
    "max_tokens": 9,
    "max_completion_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": -(2**63),
    "stop": ["\n", '"],"cache_salt":"x'],
    "presence_penalty": -1.5,
    "frequency_penalty": 0.25,
    "logprobs": True,
    "top_logprobs": 3,
    "n": 1,
    "user": "someone",
}


async def test_with_every_field_of_a_request_the_body_is_the_golden_one(gateway: Gateway) -> None:
    assert EVERY_FIELD.keys() | {"documents"} == set(ChatRequest.__struct_fields__)
    added = await gateway.add(LEASE, id="lease")
    async with gateway.request("POST", "/v1/chat/completions", json=EVERY_FIELD) as response:
        assert response.status == 200, await response.text()
        await response.read()
    (document,) = await gateway.store.documents()
    assert document.current is not None
    prompt = ",".join(map(str, gateway.workers[0].bodies[-1]["prompt"]))
    golden = (
        f'{{"model":"small","prompt":[{prompt}],"max_tokens":7,"cache_salt":"{document.current.salt}",'
        f'"kv_transfer_params":{{"lmcache.max_offload_tokens":{added["prefix_tokens"]}}},"stream":true,'
        '"stream_options":{"include_usage":true},"temperature":0.5,"top_p":0.9,"seed":-9223372036854775808,'
        r'"stop":["\n","\"],\"cache_salt\":\"x"],"presence_penalty":-1.5,"frequency_penalty":0.25,"logprobs":3}'
    )
    assert gateway.workers[0].sent[-1] == golden.encode()


async def test_what_steers_the_engine_is_refused_by_name(gateway: Gateway) -> None:
    before = len(gateway.workers[0].bodies)
    for name in STEERING:
        error = (await gateway.ask("What?", status=400, **{name: 2 if name == "n" else "x"}))["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", name)
    assert len(gateway.workers[0].bodies) == before


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.text(max_size=5), max_size=3)
FIELDS = st.sampled_from([*EVERY_FIELD, *STEERING, *OURS, *DRAWN]) | st.text(max_size=9)


@settings(max_examples=300)
@given(st.dictionaries(FIELDS, VALUES, max_size=5), st.dictionaries(st.sampled_from(sorted(EVERY_FIELD)), st.none(), max_size=6))
def test_whatever_a_client_sends_the_bodys_fields_are_the_known_ones(given_: dict[str, Any], left_out: dict[str, None]) -> None:
    client = {name: value for name, value in {**EVERY_FIELD, **given_}.items() if name not in left_out}
    try:
        request = parse(json.dumps(client).encode("utf-8", "replace"))
    except InvalidRequest:
        return
    parts = body(opening("small", [1, 2]), [3], salt=Salt("5a17"), keep_tokens=2, max_tokens=7, sampling=request.sampling)
    sent = json.loads(b"".join(parts))
    assert tuple(name for name in sent if name not in DRAWN) == OURS
    assert set(sent) <= {*OURS, *DRAWN}
    assert (sent["cache_salt"], sent["kv_transfer_params"]) == ("5a17", {"lmcache.max_offload_tokens": 2})
    assert (sent["model"], sent["prompt"], sent["max_tokens"], sent["stream"]) == ("small", [1, 2, 3], 7, True)


async def test_a_thousand_requests_reach_the_worker_with_the_salts_of_their_own_documents_alone(gateway: Gateway) -> None:
    """Fields are put in, left out and given other values at random; two tenants ask, each of its own document of the same id."""
    rng = random.Random(11)  # noqa: S311 - the same requests each time
    keys = {"tenant-a": gateway.key, "tenant-b": await gateway.new_key("tenant-b")}
    for key in keys.values():
        await gateway.add(LEASE, id="lease", key=key)
    salts = {document.owner: document.current.salt for document in await gateway.store.documents() if document.current is not None}
    assert len(set(salts.values())) == 2
    values: list[Any] = [None, True, 0, 1, 2, -1.5, 10**30, "", "x", "lease", [], ["lease"], {}, {"a": 1}, *salts.values()]
    answered = 0
    for _ in range(1000):
        tenant = rng.choice(list(keys))
        client = {name: value for name, value in EVERY_FIELD.items() if rng.random() < 0.9 or name in ("messages", "document")}
        for _ in range(rng.randrange(3)):
            client[rng.choice([*EVERY_FIELD, *STEERING])] = rng.choice(values)
        before = len(gateway.workers[0].bodies)
        async with gateway.request("POST", "/v1/chat/completions", json=client, key=keys[tenant]) as response:
            await response.read()
            assert response.status in (200, 400, 404, 409)
            answered += response.status == 200
        for sent in gateway.workers[0].bodies[before:]:
            assert set(sent) <= {*OURS, *DRAWN}
            assert sent["cache_salt"] == salts[tenant]  # type: ignore[index]
    assert answered > 200
