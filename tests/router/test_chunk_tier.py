"""One host's chunks by example; `test_residency.py` drives them at random, with all else that the ledger holds."""

from __future__ import annotations

import pytest

from router.chunk_tier import ChunkKey, ChunkTier
from router.documents import Salt

A, B = Salt("salt-a"), Salt("salt-b")
KEYS = tuple(ChunkKey(bytes([number])) for number in range(4))


def holding(*numbers: int, salt: Salt = A, size_bytes: int = 10) -> ChunkTier:
    tier = ChunkTier()
    for number in numbers:
        tier.stored(salt, KEYS[number], size_bytes)
    tier.check()
    return tier


def test_chunks_are_counted_by_salt_and_in_all() -> None:
    tier = holding(0, 1)
    tier.stored(B, KEYS[0], 5)
    assert (tier.size_bytes(A), tier.size_bytes(B), tier.size_bytes(Salt("other"))) == (20, 5, 0)
    assert (dict(tier.salts), tier.total_bytes) == ({A: 20, B: 5}, 25)
    assert set(tier.keys(A)) == set(KEYS[:2])
    assert tier.keys(Salt("other")) == ()
    assert repr(tier) == "<ChunkTier 25 bytes of 2 salts>"
    tier.check()


def test_a_chunk_that_is_told_of_again_counts_once_with_its_new_size() -> None:
    tier = holding(0)
    tier.stored(A, KEYS[0], 7)
    assert tier.total_bytes == tier.size_bytes(A) == 7


def test_a_size_that_is_not_known_leaves_the_one_that_was() -> None:
    tier = holding(0)
    tier.stored(A, KEYS[0], 0)
    assert tier.total_bytes == 10
    tier.stored(A, KEYS[1], 0)
    assert (tier.total_bytes, tier.run(A, KEYS)) == (10, 2)
    tier.stored(A, KEYS[1], 4)
    assert tier.total_bytes == 14
    tier.check()


@pytest.mark.parametrize(("there", "run"), [((), 0), ((0, 1, 2, 3), 4), ((0, 1, 3), 2), ((1, 2), 0)])
def test_only_what_is_here_without_a_gap_is_a_run(there: tuple[int, ...], run: int) -> None:
    assert holding(*there).run(A, KEYS) == run
    assert holding(*there, salt=B).run(A, KEYS) == 0


def test_what_was_never_told_of_can_be_removed() -> None:
    tier = holding(0)
    tier.removed(A, KEYS[1])
    tier.removed(B, KEYS[0])
    tier.forget(B)
    assert dict(tier.salts) == {A: 10}
    tier.check()


def test_a_salt_without_a_chunk_is_not_here() -> None:
    tier = holding(0, 1)
    tier.removed(A, KEYS[0])
    assert dict(tier.salts) == {A: 10}
    tier.removed(A, KEYS[1])
    assert (dict(tier.salts), tier.total_bytes) == ({}, 0)
    tier.observed(A, {})
    assert dict(tier.salts) == {}
    tier.check()


def test_whoever_looked_knows_what_is_there_and_what_is_not() -> None:
    tier = holding(0, 1)
    tier.observed(A, {KEYS[1]: 3, KEYS[2]: 4})
    assert (set(tier.keys(A)), tier.total_bytes) == ({KEYS[1], KEYS[2]}, 7)
    tier.check()


def test_what_is_forgotten_counts_no_more() -> None:
    tier = holding(0, 1)
    tier.stored(B, KEYS[0], 5)
    tier.forget(A)
    assert (dict(tier.salts), tier.total_bytes, tier.keys(A)) == ({B: 5}, 5, ())
    tier.check()


def test_what_changes_during_a_look_is_known_to_whoever_looks() -> None:
    tier = holding(0)
    tier.stored(B, KEYS[0], 1)
    first = tier.looking()
    tier.removed(A, KEYS[1])  # was not there
    tier.forget(Salt("other"))
    assert first == set()
    tier.removed(A, KEYS[0])
    second = tier.looking()
    tier.stored(Salt("new"), KEYS[0], 1)
    assert (first, second) == ({A, "new"}, {"new"})
    tier.looked(first)
    tier.forget(B)
    assert (first, second) == ({A, "new"}, {"new", B})
    tier.looked(second)
    tier.observed(A, {KEYS[2]: 1})
    assert (first, second) == ({A, "new"}, {"new", B})


def test_the_salts_that_are_shown_can_not_be_changed() -> None:
    with pytest.raises(TypeError):
        holding(0).salts[A] = 1  # type: ignore[index]


def test_a_tier_whose_sizes_differ_from_its_chunks_does_not_check() -> None:
    tier = holding(0)
    tier._sizes[A] += 1
    with pytest.raises(AssertionError, match="sizes"):
        tier.check()
    tier = holding(0)
    tier.total_bytes += 1
    with pytest.raises(AssertionError, match="sizes"):
        tier.check()


def test_a_tier_that_keeps_a_salt_without_a_chunk_does_not_check() -> None:
    tier = holding(0)
    tier._chunks[B], tier._sizes[B] = {}, 0
    with pytest.raises(AssertionError, match="without a chunk"):
        tier.check()
