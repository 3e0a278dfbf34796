"""The account of a question's tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.tokens import TokenSplit, split

TOKENS = st.integers(0, 10_000)


@given(TOKENS, TOKENS, TOKENS, TOKENS)
def test_the_parts_add_up_to_what_was_asked(prompt: int, cached: int, prefix: int, on_gpu: int) -> None:
    found = split(prompt=prompt, cached=cached, prefix=prefix, on_gpu=on_gpu)
    assert found.asked == prompt
    assert min(found.recomputed, found.restored, found.reused) >= 0
    assert found.restored + found.reused == min(cached, prompt)


@pytest.mark.parametrize(
    ("cached", "on_gpu", "expected"),
    [
        (0, 0, TokenSplit(1030, 0, 0)),  # cold
        (1024, 0, TokenSplit(6, 1024, 0)),  # from RAM or disk
        (1024, 1024, TokenSplit(6, 0, 1024)),  # from the GPU
        (1024, 256, TokenSplit(6, 768, 256)),  # some of each
        (1028, 1024, TokenSplit(2, 0, 1028)),  # a question that begins like an earlier one
        (1028, 0, TokenSplit(2, 1024, 4)),
        (512, 1024, TokenSplit(518, 0, 512)),  # believed to be there, and wasn't
    ],
)
def test_where_a_documents_tokens_came_from(cached: int, on_gpu: int, expected: TokenSplit) -> None:
    assert split(prompt=1030, cached=cached, prefix=1024, on_gpu=on_gpu) == expected


def test_accounts_are_added_part_by_part() -> None:
    assert TokenSplit(1, 2, 3).plus(TokenSplit(10, 20, 30)) == TokenSplit(11, 22, 33)
