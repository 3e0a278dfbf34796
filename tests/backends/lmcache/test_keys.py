"""LMCache's names of chunks: against names that LMCache 0.5.6 made, and against what is documented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.lmcache.keys import PARTIAL, chunk_hashes, file_name, kv_bytes_a_token, parse_file_name, partial_name
from router.chunk_tier import ChunkKey
from router.documents import Salt
from tests.backends.lmcache.samples import CHUNK, KEYS, MODEL, SALT, keys_of

HASH = KEYS[0].hex()
HEAD = "-SEP-models-SEP-smollm2@0x01000100@0@"

salts = st.text(st.characters(codec="utf-8", exclude_characters="@/\\\0"), min_size=1, max_size=128)
keys = st.binary(min_size=32, max_size=32)
models = st.text(st.characters(codec="utf-8", exclude_characters="@\0"), min_size=1, max_size=40)


def test_keys_are_those_that_lmcache_made() -> None:
    """`TokenHasher(4, "blake3").compute_chunk_hashes(range(100, 110))`."""
    assert [key.hex() for key in chunk_hashes(range(100, 110), 4)] == [
        "c2386b8e97ea5c6ad9811027ec05a51905ca24265dbae126101f62b099a108b2",
        "250ae6eb15cca3f1ce3ac5b412b553f26d4bc07387e978b47a166f9f0fa79887",
    ]


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=5 * CHUNK))
def test_a_chunks_key_is_the_chain_over_all_before_it(ids: list[int]) -> None:
    expected = keys_of(ids)
    assert tuple(chunk_hashes(ids, CHUNK)) == expected
    assert tuple(chunk_hashes(np.array(ids, np.uint32), CHUNK)) == expected  # type: ignore[arg-type]


def test_a_chunk_that_is_not_full_has_no_key() -> None:
    assert [len(list(chunk_hashes(range(length), CHUNK))) for length in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("token", [-1, 2**32])
def test_what_is_no_token_has_no_key(token: int) -> None:
    with pytest.raises(OverflowError):
        list(chunk_hashes([1, 2, 3, token], CHUNK))


def test_a_file_is_named_by_model_rank_key_and_salt() -> None:
    """`_object_key_to_filename` of that key."""
    zero = ChunkKey(bytes(32))
    assert file_name("/models/a-b", zero, Salt("5a17")) == f"-SEP-models-SEP-a-b@0x01000100@0@{'0' * 64}@5a17.data"
    assert partial_name("/models/a-b", zero, Salt("5a17")) == f"-SEP-models-SEP-a-b@0x01000100@0@{'0' * 64}@5a17.tmp"


@given(models, keys, salts)
def test_a_name_tells_salt_and_key(model: str, raw: bytes, salt: str) -> None:
    key = ChunkKey(raw)
    assert parse_file_name(model, file_name(model, key, Salt(salt))) == (salt, key)
    assert parse_file_name(model, partial_name(model, key, Salt(salt)), suffix=PARTIAL) == (salt, key)
    assert parse_file_name(model, partial_name(model, key, Salt(salt))) is None


def test_another_models_chunk_is_none_of_ours() -> None:
    assert parse_file_name(MODEL, file_name("/models/other", KEYS[0], SALT)) is None
    assert parse_file_name(MODEL, file_name("/models/smollm2-b", KEYS[0], SALT)) is None
    assert parse_file_name("/models/smollm2-b", file_name(MODEL, KEYS[0], SALT)) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".data",
        HEAD,
        f"{HEAD}{HASH}.data",  # no salt
        f"{HEAD}{HASH}@.data",
        f"{HEAD}{HASH}@5a17",
        f"{HEAD}{HASH}@5a17.data.tmp",
        f"{HEAD}{HASH}@5a17@more.data",
        f"{HEAD}{HASH}@{'s' * 129}.data",
        f"{HEAD}{HASH[:-2]}@5a17.data",
        f"{HEAD}{HASH}00@5a17.data",
        f"{HEAD}{HASH.upper()}@5a17.data",
        f"{HEAD}{'x' * 64}@5a17.data",
        f"{HEAD}@5a17.data",
        f"-SEP-models-SEP-smollm2@0x02000200@0@{HASH}@5a17.data",  # two ranks
        f"-SEP-models-SEP-smollm2@0x01000100@1@{HASH}@5a17.data",
    ],
)
def test_other_names_are_no_chunks(name: str) -> None:
    assert parse_file_name(MODEL, name) is None


@given(st.text())
def test_any_name_is_parsed_or_none(name: str) -> None:
    parse_file_name(MODEL, name)
    parse_file_name(MODEL, f"{HEAD}{name}.data")


def test_the_kv_of_a_token_follows_from_the_models_config(tmp_path: Path) -> None:
    assert kv_bytes_a_token(tmp_path, "bfloat16") is None
    # SmolLM2-135M: measured in engine runs as 23,040 bytes a token in bfloat16.
    config = '{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}'
    (tmp_path / "config.json").write_text(config)
    assert kv_bytes_a_token(tmp_path, "bfloat16") == 23_040
    assert kv_bytes_a_token(tmp_path, "float32") == 46_080
    assert kv_bytes_a_token(tmp_path, "int3") is None
