"""What meaning tells of each document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evidence import OPENING, dense_evidence, mean_vector, quantised

QUESTION = np.array([1, 0], dtype=np.float32)
EAST, NORTH, WEST, SLANTED = ([1, 0], [0, 1], [-1, 0], [0.6, 0.8])


def evidence(*texts: list[list[float]]) -> list[list[float]]:
    vectors = [np.array(of_document, dtype=np.float16) for of_document in texts]
    means = np.array([mean_vector(of_document) @ QUESTION for of_document in vectors])
    found = dense_evidence(QUESTION, [quantised(of_document) for of_document in vectors], means)
    assert found.dtype == np.float32
    assert found.shape == (3, len(texts))
    return [[round(float(value), 2) for value in row] for row in found]


def test_a_documents_best_text_counts_wherever_it_stands() -> None:
    best, _, _ = evidence([SLANTED, NORTH], [NORTH, NORTH, NORTH, EAST], [NORTH])
    assert best == [0.6, 1.0, 0.0]


def test_only_the_first_texts_are_the_opening() -> None:
    assert OPENING == 3
    _, _, opening = evidence([NORTH, NORTH, SLANTED, EAST], [EAST], [NORTH, SLANTED])
    assert opening == [0.6, 1.0, 0.6]


def test_what_points_away_tells_nothing() -> None:
    assert evidence([WEST]) == [[0.0], [0.0], [0.0]]


def test_a_mean_vector_is_of_length_one_also_where_its_texts_cancel_out() -> None:
    assert mean_vector(np.array([EAST, NORTH], dtype=np.float16)).tolist() == pytest.approx([2**-0.5, 2**-0.5])
    assert mean_vector(np.array([EAST, WEST], dtype=np.float16)).tolist() == [0.0, 0.0]
    assert mean_vector(np.array([NORTH], dtype=np.float16)).dtype == np.float32


@given(st.integers(0, 1000))
def test_a_cosine_of_quantised_vectors_is_off_by_little(seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((5, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = dense_evidence(vectors[0], [quantised(vectors[place : place + 1]) for place in range(5)], np.zeros(5, dtype=np.float32))
    assert found[0] == pytest.approx(np.maximum(vectors @ vectors[0], 0), abs=0.005)


def test_a_vector_of_zeros_is_quantised_too() -> None:
    assert quantised(np.zeros((1, 4), dtype=np.float32)).rows.tolist() == [[0, 0, 0, 0]]
