"""One worker's blocks by example; `test_residency.py` drives them at random, with all else that the ledger holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from router.documents import Salt, Version, VersionId
from router.gpu_tier import GpuTier

BLOCK_TOKENS = 4


def version(salt: str = "salt-1", blocks: int = 3) -> Version:
    tokens = blocks * BLOCK_TOKENS
    return Version(id=VersionId("v"), digest="d", fingerprint="f", salt=Salt(salt), document_tokens=tokens, prefix_tokens=tokens)


def chain(tier: GpuTier, hashes: Sequence[int], parent: int | None = None, salt: str | None = "salt-1") -> GpuTier:
    tier.stored(hashes, parent, None if salt is None else Salt(salt), BLOCK_TOKENS)
    tier.check()
    return tier


def test_a_share_is_counted_without_a_gap_from_the_beginning() -> None:
    tier = chain(GpuTier(), [10, 11, 12])
    assert tier.share(version()) == 1.0
    tier.removed([11])
    assert tier.share(version()) == pytest.approx(1 / 3)
    tier.removed([10, 99])
    assert tier.share(version()) == 0.0
    assert repr(tier) == "<GpuTier 1 blocks of 1 salts>"


def test_a_gap_that_is_filled_again_counts_what_stands_behind_it() -> None:
    tier = chain(GpuTier(), [10, 11, 12])
    tier.removed([11])
    assert tier.share(version()) < 1
    chain(tier, [11], parent=10, salt=None)
    assert tier.share(version()) == 1.0


def test_a_version_whose_last_block_is_removed_leaves_nothing_behind() -> None:
    tier = chain(GpuTier(), [10])
    tier.removed([10])
    tier.check()
    assert repr(tier) == "<GpuTier 0 blocks of 0 salts>"


def test_a_look_at_what_is_not_there_leaves_nothing_behind() -> None:
    tier = GpuTier()
    for number in range(100):
        assert tier.share(version(f"salt-{number}")) == 0.0
    assert tier._runs == {}


def test_blocks_of_questions_do_not_count_beyond_the_whole() -> None:
    tier = chain(GpuTier(), [10, 11, 12])
    chain(tier, [13, 14], parent=12, salt=None)
    assert tier.share(version()) == 1.0


def test_a_branch_that_goes_leaves_the_other() -> None:
    tier = chain(GpuTier(), [10, 11])
    chain(tier, [20], parent=11, salt=None)
    chain(tier, [21], parent=11, salt=None)
    tier.removed([20])
    tier.check()
    assert tier.share(version()) == 1.0


def test_a_chain_whose_beginning_was_never_seen_is_ignored() -> None:
    tier = chain(GpuTier(), [11, 12], parent=10)
    assert repr(tier) == "<GpuTier 0 blocks of 0 salts>"


def test_a_chain_without_a_salt_belongs_to_no_version() -> None:
    assert repr(chain(GpuTier(), [10], salt=None)) == "<GpuTier 0 blocks of 0 salts>"


def test_a_version_with_nothing_read_has_no_share() -> None:
    assert chain(GpuTier(), [1]).share(version(blocks=0)) == 0.0


def test_blocks_of_a_salt_are_no_other_versions() -> None:
    assert chain(GpuTier(), [10, 11, 12]).share(version("salt-2")) == 0.0


def test_blocks_that_are_told_of_twice_count_once() -> None:
    tier = chain(GpuTier(), [10, 11])
    chain(tier, [10, 11])
    tier.removed([10, 11])
    assert repr(tier) == "<GpuTier 0 blocks of 0 salts>"


def test_a_damaged_tier_does_not_check() -> None:
    tier = chain(GpuTier(), [10])
    tier._blocks.clear()
    with pytest.raises(AssertionError, match="counts"):
        tier.check()
