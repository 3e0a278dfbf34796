"""The ledger against a simple model: blocks as paths in a tree, leases as a list."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from router.documents import Salt, Version, VersionId
from router.gpu_tier import GpuTier
from router.residency import Held, Ledger, Tier

BLOCK_TOKENS = 4
WORKERS = ("w0", "w1")

Path = tuple[int, ...]
"""A block's place: the branch taken at each level, () being no block."""


def version(id_: str, blocks: int = 3) -> Version:
    return Version(
        id=VersionId(id_),
        digest="d",
        fingerprint="f",
        salt=Salt(f"salt-{id_}"),
        document_tokens=blocks * BLOCK_TOKENS,
        prefix_tokens=blocks * BLOCK_TOKENS,
    )


VERSIONS = (version("0", 1), version("1", 3), version("2", 4))


def block(salt: Salt, path: Path) -> bytes:
    """A block's hash names all that precedes it, as in the engine."""
    return f"{salt}{path}".encode()


SALTS = st.sampled_from([v.salt for v in VERSIONS])
PATHS = st.lists(st.integers(0, 1), min_size=1, max_size=5).map(tuple)
SHARES = st.sampled_from([0.0, 0.5, 1.0])


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.leases: list[VersionId] = []
        self.blocks: dict[str, set[tuple[Salt, Path]]] = {worker: set() for worker in WORKERS}
        self.held: dict[Salt, Held] = {}

    @rule(worker=st.sampled_from(WORKERS), salt=SALTS, path=PATHS, stored=st.integers(1, 5))
    def store_blocks(self, worker: str, salt: Salt, path: Path, stored: int) -> None:
        """The last `stored` blocks of a path, behind the one before them."""
        start = max(len(path) - stored, 0)
        hashes = [block(salt, path[:end]) for end in range(start + 1, len(path) + 1)]
        known = self.blocks[worker]
        if start == 0:
            self.ledger.gpu(worker).stored(hashes, None, salt, BLOCK_TOKENS)
        else:
            self.ledger.gpu(worker).stored(hashes, block(salt, path[:start]), None, BLOCK_TOKENS)
        if start == 0 or (salt, path[:start]) in known:
            known |= {(salt, path[:end]) for end in range(start + 1, len(path) + 1)}

    @rule(worker=st.sampled_from(WORKERS), salt=SALTS, paths=st.lists(PATHS, max_size=4))
    def remove_blocks(self, worker: str, salt: Salt, paths: list[Path]) -> None:
        self.ledger.gpu(worker).removed([block(salt, path) for path in paths])
        self.blocks[worker] -= {(salt, path) for path in paths}

    @rule(worker=st.sampled_from(WORKERS), salt=SALTS)
    def remove_all_blocks_of_a_version(self, worker: str, salt: Salt) -> None:
        gone = {place for place in self.blocks[worker] if place[0] == salt}
        self.ledger.gpu(worker).removed([block(*place) for place in gone])
        self.blocks[worker] -= gone

    @rule(worker=st.sampled_from(WORKERS))
    def worker_restarts(self, worker: str) -> None:
        self.ledger.forget_worker(worker)
        self.blocks[worker].clear()

    @rule(seen=st.sampled_from(VERSIONS), ram=SHARES, disk=SHARES)
    def host_is_observed(self, seen: Version, ram: float, disk: float) -> None:
        self.ledger.observe_host(seen.salt, Held(ram, disk))
        self.held[seen.salt] = Held(ram, disk)

    @rule(gone=st.sampled_from(VERSIONS))
    def version_is_deleted(self, gone: Version) -> None:
        self.ledger.forget(gone)
        self.held.pop(gone.salt, None)

    @rule(asked=st.sampled_from(VERSIONS))
    def lease(self, asked: Version) -> None:
        self.ledger.lease(asked.id)
        self.leases.append(asked.id)

    @rule(answered=st.sampled_from(VERSIONS))
    def release(self, answered: Version) -> None:
        if answered.id in self.leases:
            self.leases.remove(answered.id)
            assert self.ledger.release(answered.id) is (answered.id not in self.leases)
        else:
            with pytest.raises(ValueError, match="no lease"):
                self.ledger.release(answered.id)

    @invariant()
    def it_believes_what_the_model_says(self) -> None:
        for each in VERSIONS:
            held = self.held.get(each.salt, Held())
            assert self.ledger.leased(each.id) is (each.id in self.leases)
            assert self.ledger.held(each) == held
            for worker in WORKERS:
                share = self.share(worker, each)
                assert self.ledger.gpu_share(each, worker) == pytest.approx(share)
                assert self.ledger.tier(each, worker) is expected_tier(share, held)

    @invariant()
    def it_checks(self) -> None:
        self.ledger.check()

    def share(self, worker: str, of: Version) -> float:
        lengths = {len(path) for salt, path in self.blocks[worker] if salt == of.salt}
        run = next(length for length in range(7) if length + 1 not in lengths)
        return min(run * BLOCK_TOKENS / of.prefix_tokens, 1.0)


def expected_tier(gpu: float, held: Held) -> Tier:
    """The fastest tier that, with the faster ones, has the whole of it."""
    if gpu == 1:
        return Tier.GPU
    if held.ram == 1:
        return Tier.RAM
    return Tier.DISK if held.disk == 1 else Tier.NONE


LedgerMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestLedger = LedgerMachine.TestCase


def test_a_version_is_in_use_until_its_last_lease_is_back() -> None:
    ledger = Ledger()
    ledger.lease(VERSIONS[0].id)
    ledger.lease(VERSIONS[0].id)
    assert [ledger.release(VERSIONS[0].id), ledger.leased(VERSIONS[0].id)] == [False, True]
    assert [ledger.release(VERSIONS[0].id), ledger.leased(VERSIONS[0].id)] == [True, False]


def chain(tier: GpuTier, hashes: Sequence[int], parent: int | None = None, salt: str | None = "salt-1") -> GpuTier:
    tier.stored(hashes, parent, None if salt is None else Salt(salt), BLOCK_TOKENS)
    return tier


def test_a_share_is_counted_without_a_gap_from_the_beginning() -> None:
    tier = chain(GpuTier(), [10, 11, 12])
    assert tier.share(VERSIONS[1]) == 1.0
    tier.removed([11])
    assert tier.share(VERSIONS[1]) == pytest.approx(1 / 3)
    tier.removed([10, 99])
    assert tier.share(VERSIONS[1]) == 0.0
    assert repr(tier) == "<GpuTier 1 blocks of 1 salts>"


def test_a_version_whose_last_block_is_removed_leaves_nothing_behind() -> None:
    tier = chain(GpuTier(), [10])
    tier.removed([10])
    tier.check()
    assert repr(tier) == "<GpuTier 0 blocks of 0 salts>"


def test_blocks_of_questions_do_not_count_beyond_the_whole() -> None:
    tier = chain(GpuTier(), [10, 11, 12])
    chain(tier, [13, 14], parent=12, salt=None)
    assert tier.share(VERSIONS[1]) == 1.0


def test_a_branch_that_goes_leaves_the_other() -> None:
    tier = chain(GpuTier(), [10, 11])
    chain(tier, [20], parent=11, salt=None)
    chain(tier, [21], parent=11, salt=None)
    tier.removed([20])
    tier.check()
    assert tier.share(VERSIONS[1]) == 1.0


def test_a_chain_whose_beginning_was_never_seen_is_ignored() -> None:
    tier = chain(GpuTier(), [11, 12], parent=10)
    assert repr(tier) == "<GpuTier 0 blocks of 0 salts>"


def test_a_chain_without_a_salt_belongs_to_no_version() -> None:
    assert repr(chain(GpuTier(), [10], salt=None)) == "<GpuTier 0 blocks of 0 salts>"


def test_a_version_with_nothing_read_has_no_share() -> None:
    assert chain(GpuTier(), [1]).share(version("1", blocks=0)) == 0.0


def test_blocks_of_a_salt_are_no_other_versions() -> None:
    assert chain(GpuTier(), [10, 11, 12]).share(VERSIONS[2]) == 0.0


def test_a_damaged_tier_does_not_check() -> None:
    tier = chain(GpuTier(), [10])
    tier._blocks.clear()
    with pytest.raises(AssertionError, match="counts"):
        tier.check()


def test_a_ledger_with_a_lease_below_one_does_not_check() -> None:
    ledger = Ledger()
    ledger._leases[VERSIONS[0].id] = 0
    with pytest.raises(AssertionError, match="leases"):
        ledger.check()


@pytest.mark.parametrize("held", [Held(ram=1.5), Held(disk=-0.1)])
def test_a_ledger_with_an_impossible_share_does_not_check(held: Held) -> None:
    ledger = Ledger()
    ledger.observe_host(VERSIONS[0].salt, held)
    with pytest.raises(AssertionError, match="share"):
        ledger.check()


def test_a_ledger_says_what_it_knows() -> None:
    ledger = Ledger()
    ledger.lease(VERSIONS[0].id)
    ledger.gpu("w0")
    assert repr(ledger) == "<Ledger gpu={'w0': <GpuTier 0 blocks of 0 salts>} hosts=0 leases={'0': 1}>"
