"""The body for the engine: a splice that equals the whole, with nothing of the client's in it but `Sampling`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from router.documents import Salt
from router.upstream import Sampling, body, opening

GOLDEN = (
    b'{"model":"smollm2","prompt":[1,2,3,40,50],"max_tokens":7,"cache_salt":"5a17",'
    b'"kv_transfer_params":{"lmcache.max_offload_tokens":3},"stream":true,"stream_options":{"include_usage":true}'
)
OURS = {"model", "prompt", "max_tokens", "cache_salt", "kv_transfer_params", "stream", "stream_options"}
DRAWN = {"temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty", "logprobs"}

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.none() | st.floats(-2, 2, allow_nan=False)
SAMPLINGS = st.builds(
    Sampling,
    temperature=NUMBER,
    top_p=NUMBER,
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.none() | st.lists(TEXT, max_size=4).map(tuple),
    presence_penalty=NUMBER,
    frequency_penalty=NUMBER,
    logprobs=st.none() | st.integers(0, 20),
)
IDS = st.lists(st.integers(0, 2**32 - 1), max_size=8)


def spliced(sampling: Sampling | None = None) -> bytes:
    return b"".join(
        body(opening("smollm2", [1, 2, 3]), [40, 50], salt=Salt("5a17"), keep_tokens=3, max_tokens=7, sampling=sampling)
    )


def test_a_body_is_the_golden_one() -> None:
    assert spliced() == GOLDEN + b"}"


def test_sampling_that_says_nothing_adds_nothing() -> None:
    assert spliced(Sampling()) == GOLDEN + b"}"


def test_a_body_with_every_sampling_field_is_the_golden_one() -> None:
    sampling = Sampling(
        temperature=0.0, top_p=0.9, seed=1, stop=("\n", '"'), presence_penalty=-1.0, frequency_penalty=0.5, logprobs=0
    )
    assert spliced(sampling) == (
        GOLDEN + b',"temperature":0.0,"top_p":0.9,"seed":1,"stop":["\\n","\\""],'
        b'"presence_penalty":-1.0,"frequency_penalty":0.5,"logprobs":0}'
    )


def test_the_first_part_is_the_stored_opening_itself() -> None:
    """Not a copy: a request must not cost in proportion to its document."""
    stored = opening("smollm2", range(1000))
    first, second = body(stored, [1], salt=Salt("s"), keep_tokens=1, max_tokens=1)
    assert first is stored
    assert len(second) < 200


def test_a_question_without_tokens_leaves_the_prefix_alone() -> None:
    parts = body(opening("m", [1, 2]), [], salt=Salt("s"), keep_tokens=2, max_tokens=1)
    assert json.loads(b"".join(parts))["prompt"] == [1, 2]


@settings(max_examples=100)
@given(
    model=TEXT, prefix=IDS.filter(len), suffix=IDS, salt=TEXT, keep=st.integers(0, 9999), most=st.integers(1, 9999), drawn=SAMPLINGS
)
def test_the_splice_is_the_json_of_the_whole(
    model: str, prefix: list[int], suffix: list[int], salt: str, keep: int, most: int, drawn: Sampling
) -> None:
    whole: dict[str, Any] = {
        "model": model,
        "prompt": prefix + suffix,
        "max_tokens": most,
        "cache_salt": salt,
        "kv_transfer_params": {"lmcache.max_offload_tokens": keep},
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in msgspec.structs.asdict(drawn).items() if value is not None},
    }
    parts = body(opening(model, prefix), suffix, salt=Salt(salt), keep_tokens=keep, max_tokens=most, sampling=drawn)
    assert b"".join(parts) == msgspec.json.encode(whole)


def test_sampling_has_no_field_that_steers_the_cache_or_the_stream() -> None:
    assert set(Sampling.__struct_fields__) == DRAWN
    assert not DRAWN & OURS


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from(sorted(OURS | {"n", "prompt_logprobs", "lora", "echo", "user"})) | TEXT, TEXT | st.integers())
)
def test_no_client_field_reaches_the_engine(request: dict[str, Any]) -> None:
    client = {name: value for name, value in request.items() if name not in DRAWN} | {"temperature": 0.5}
    sent = json.loads(spliced(msgspec.convert(client, Sampling)))
    assert sent == json.loads(spliced(Sampling(temperature=0.5)))
    assert set(sent) == OURS | {"temperature"}


@settings(max_examples=50)
@given(st.lists(TEXT | st.sampled_from(['"],"cache_salt":"other', '"}', '\\","n":5', "]}"]), max_size=4))
def test_no_text_of_a_client_breaks_out_of_its_field(stop: list[str]) -> None:
    sent = json.loads(spliced(Sampling(stop=tuple(stop))))
    assert sent.pop("stop") == stop
    assert sent == json.loads(GOLDEN + b"}")
