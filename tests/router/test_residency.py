"""The ledger against a simple model: three workers on two hosts and one on none, blocks as paths in a tree, sets of chunks."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.chunk_tier import ChunkKey, ChunkTier
from router.documents import Salt, Version, VersionId
from router.residency import Holding, Ledger, Tier

BLOCK_TOKENS = 4
CHUNK_TOKENS = 2 * BLOCK_TOKENS
HOSTS = {"a1": "a", "a2": "a", "b1": "b"}
WORKERS = (*HOSTS, "lonely")
"""The last has no KV server."""

Path = tuple[int, ...]
"""A block's place: the branch taken at each level, () being no block."""
Chunks = dict[Salt, dict[ChunkKey, int]]


def version(id_: str, chunks: int = 2, *, salt: str | None = None) -> Version:
    tokens = chunks * CHUNK_TOKENS
    return Version(
        id=VersionId(id_),
        digest="d",
        fingerprint="f",
        salt=Salt(salt or f"salt-{id_}"),
        document_tokens=tokens,
        prefix_tokens=tokens,
    )


VERSIONS = (version("0", 1), version("1", 2), version("2", 3), version("2-again", 3, salt="salt-2"))
"""The last two are one text that was deleted and added again: one salt, one KV."""


def keys(of: Version) -> tuple[ChunkKey, ...]:
    return tuple(key(of.salt, number) for number in range(of.prefix_tokens // CHUNK_TOKENS))


def key(salt: Salt, number: int) -> ChunkKey:
    return ChunkKey(f"{salt}#{number}".encode())


def block(salt: Salt, path: Path) -> bytes:
    """A block's hash names all that precedes it, as in the engine."""
    return f"{salt}{path}".encode()


SALTS = st.sampled_from([v.salt for v in VERSIONS])
PATHS = st.lists(st.integers(0, 1), min_size=1, max_size=7).map(tuple)
A_VERSION = st.sampled_from(VERSIONS)
A_WORKER = st.sampled_from(WORKERS)
A_HOST = st.sampled_from(["a", "b"])
A_STORE = st.sampled_from([Tier.RAM, Tier.DISK])
A_CHUNK = st.integers(0, 3)
A_SIZE = st.integers(0, 3)
"""0: not known."""


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(HOSTS)
        self.leases: list[Version] = []
        self.blocks: dict[str, set[tuple[Salt, Path]]] = {worker: set() for worker in WORKERS}
        self.stores: dict[tuple[Tier, str], Chunks] = {(tier, host): {} for tier in (Tier.RAM, Tier.DISK) for host in "ab"}
        self.known: dict[Salt, tuple[ChunkKey, ...]] = {}
        self.token_bytes = 0.0

    def tier(self, tier: Tier, host: str) -> ChunkTier:
        return self.ledger.ram(host) if tier is Tier.RAM else self.ledger.disk(host)

    # --- workers tell of blocks

    @rule(worker=A_WORKER, salt=SALTS, path=PATHS, stored=st.integers(1, 7))
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

    @rule(worker=A_WORKER, salt=SALTS, paths=st.none() | st.lists(PATHS, max_size=4))
    def remove_blocks(self, worker: str, salt: Salt, paths: list[Path] | None) -> None:
        if paths is None:  # all of a version's
            paths = [path for other, path in self.blocks[worker] if other == salt]
        self.ledger.gpu(worker).removed([block(salt, path) for path in paths])
        self.blocks[worker] -= {(salt, path) for path in paths}

    @rule(worker=A_WORKER)
    def worker_restarts(self, worker: str) -> None:
        self.ledger.forget_worker(worker)
        self.blocks[worker].clear()

    # --- KV servers tell of chunks, and somebody looks at files

    @rule(tier=A_STORE, host=A_HOST, salt=SALTS, number=A_CHUNK, size_bytes=A_SIZE)
    def store_a_chunk(self, tier: Tier, host: str, salt: Salt, number: int, size_bytes: int) -> None:
        self.tier(tier, host).stored(salt, key(salt, number), size_bytes)
        chunks = self.stores[tier, host].setdefault(salt, {})
        chunks[key(salt, number)] = size_bytes or chunks.get(key(salt, number), 0)

    @rule(tier=A_STORE, host=A_HOST, whole=A_VERSION)
    def store_a_version(self, tier: Tier, host: str, whole: Version) -> None:
        for number, each in enumerate(keys(whole)):
            self.tier(tier, host).stored(whole.salt, each, number + 1)
            self.stores[tier, host].setdefault(whole.salt, {})[each] = number + 1

    @rule(tier=A_STORE, host=A_HOST, salt=SALTS, number=A_CHUNK)
    def remove_a_chunk(self, tier: Tier, host: str, salt: Salt, number: int) -> None:
        self.tier(tier, host).removed(salt, key(salt, number))
        chunks = self.stores[tier, host].get(salt, {})
        chunks.pop(key(salt, number), None)
        if not chunks:
            self.stores[tier, host].pop(salt, None)

    @rule(tier=A_STORE, host=A_HOST, salt=SALTS, seen=st.none() | st.dictionaries(A_CHUNK, A_SIZE))
    def look(self, tier: Tier, host: str, salt: Salt, seen: dict[int, int] | None) -> None:
        chunks = {key(salt, number): size_bytes for number, size_bytes in (seen or {}).items()}
        if seen is None:
            self.tier(tier, host).forget(salt)
        else:
            self.tier(tier, host).observed(salt, chunks)
        self.stores[tier, host].pop(salt, None)
        if chunks:
            self.stores[tier, host][salt] = chunks

    @rule(host=A_HOST)
    def kv_server_restarts(self, host: str) -> None:
        self.ledger.forget_ram(host)
        self.stores[Tier.RAM, host].clear()

    # --- the gateway

    @rule(of=A_VERSION)
    def know(self, of: Version) -> None:
        self.ledger.know(of.salt, keys(of))
        self.known[of.salt] = keys(of)

    @rule(token_bytes=st.sampled_from([0.5, 2.0]))
    def weigh(self, token_bytes: float) -> None:
        self.ledger.weigh(token_bytes)
        self.token_bytes = token_bytes

    @rule(gone=A_VERSION)
    def version_is_deleted(self, gone: Version) -> None:
        self.ledger.forget(gone)
        self.known.pop(gone.salt, None)
        for chunks in self.stores.values():
            chunks.pop(gone.salt, None)

    @rule(asked=A_VERSION)
    def lease(self, asked: Version) -> None:
        self.ledger.lease(asked)
        self.leases.append(asked)

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0))
    def release(self, number: int) -> None:
        self.ledger.release(self.leases.pop(number % len(self.leases)))

    @rule(answered=A_VERSION)
    def release_what_was_never_leased(self, answered: Version) -> None:
        if answered not in self.leases:
            with pytest.raises(ValueError, match="no lease"):
                self.ledger.release(answered)

    # --- what must be so at any time

    @invariant()
    def it_believes_what_the_model_says(self) -> None:
        for each in VERSIONS:
            assert self.ledger.leased(each.id) is any(leased.id == each.id for leased in self.leases)
            assert self.ledger.in_use(each.salt) is any(leased.salt == each.salt for leased in self.leases)
            assert self.ledger.keys(each.salt) == self.known.get(each.salt, ())
            for host in ("a", "b"):
                assert self.ledger.ram_share(each, host) == pytest.approx(self.share(Tier.RAM, host, each))
                assert self.ledger.disk_share(each, host) == pytest.approx(self.share(Tier.DISK, host, each))
            for worker in WORKERS:
                assert self.ledger.gpu_share(each, worker) == pytest.approx(self.gpu_share(worker, each))
                assert self.ledger.tier(each, worker) is self.expected_tier(worker, each)
            assert sorted(self.ledger.holdings(each), key=repr) == sorted(self.expected_holdings(each), key=repr)

    @invariant()
    def every_byte_is_counted_once(self) -> None:
        for (tier, host), chunks in self.stores.items():
            assert dict(self.tier(tier, host).salts) == {salt: sum(sizes.values()) for salt, sizes in chunks.items()}
            assert self.tier(tier, host).total_bytes == sum(sum(sizes.values()) for sizes in chunks.values())
            for salt, sizes in chunks.items():
                assert set(self.tier(tier, host).keys(salt)) == set(sizes)

    @invariant()
    def it_checks(self) -> None:
        self.ledger.check()

    # --- the model

    def gpu_share(self, worker: str, of: Version) -> float:
        lengths = {len(path) for salt, path in self.blocks[worker] if salt == of.salt}
        run = next(length for length in range(9) if length + 1 not in lengths)
        return min(run * BLOCK_TOKENS / of.prefix_tokens, 1.0)

    def share(self, tier: Tier, host: str | None, of: Version) -> float:
        known = self.known.get(of.salt, ())
        there = self.stores[tier, host].get(of.salt, {}) if host is not None else {}
        run = 0
        while run < len(known) and known[run] in there:
            run += 1
        return run / len(known) if known else 0.0

    def expected_tier(self, worker: str, of: Version) -> Tier:
        """The fastest tier that, with the faster ones, has the whole of it."""
        host = HOSTS.get(worker)
        shares = {
            Tier.GPU: self.gpu_share(worker, of),
            Tier.RAM: self.share(Tier.RAM, host, of),
            Tier.DISK: self.share(Tier.DISK, host, of),
        }
        return next((tier for tier, share in shares.items() if share == 1), Tier.NONE)

    def expected_holdings(self, of: Version) -> list[Holding]:
        on_gpus = [
            Holding(Tier.GPU, worker, share, round(share * of.prefix_tokens * self.token_bytes))
            for worker in WORKERS
            if (share := self.gpu_share(worker, of))
        ]
        return on_gpus + [
            Holding(tier, host, self.share(tier, host, of), sum(chunks[of.salt].values()))
            for (tier, host), chunks in self.stores.items()
            if of.salt in chunks
        ]


LedgerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestLedger = LedgerMachine.TestCase


def test_a_text_that_was_added_again_is_in_use_by_whoever_asked_before() -> None:
    first, again = VERSIONS[2:]
    ledger = Ledger()
    ledger.lease(first)
    assert (ledger.leased(again.id), ledger.in_use(again.salt)) == (False, True)
    with pytest.raises(ValueError, match="no lease"):
        ledger.release(again)
    ledger.check()


def test_hosts_are_those_of_the_workers_and_whoever_told_of_itself() -> None:
    ledger = Ledger(HOSTS)
    assert ledger.hosts == ("a", "b")
    assert (ledger.host_of("a2"), ledger.host_of("lonely")) == ("a", None)
    ledger.ram("c").stored(VERSIONS[0].salt, keys(VERSIONS[0])[0], 1)
    ledger.disk("d").stored(VERSIONS[0].salt, keys(VERSIONS[0])[0], 1)
    ledger.know(VERSIONS[0].salt, keys(VERSIONS[0]))
    assert ledger.ram_share(VERSIONS[0], "c") == ledger.disk_share(VERSIONS[0], "d") == 1
    assert ledger.ram_share(VERSIONS[0], None) == ledger.disk_share(VERSIONS[0], None) == 0


def test_a_ledger_with_a_lease_below_one_does_not_check() -> None:
    ledger = Ledger()
    ledger._leases[VERSIONS[0].id] = 0
    with pytest.raises(AssertionError, match="leases"):
        ledger.check()


def test_a_ledger_whose_leases_differ_does_not_check() -> None:
    ledger = Ledger()
    ledger.lease(VERSIONS[0])
    del ledger._leased_salts[VERSIONS[0].salt]
    with pytest.raises(AssertionError, match="differ"):
        ledger.check()


@pytest.mark.parametrize("tier", [Tier.RAM, Tier.DISK])
def test_a_ledger_with_a_damaged_tier_does_not_check(tier: Tier) -> None:
    ledger = Ledger(HOSTS)
    damaged = ledger.ram("b") if tier is Tier.RAM else ledger.disk("b")
    damaged.total_bytes = 1
    with pytest.raises(AssertionError, match="sizes"):
        ledger.check()


def test_a_ledger_says_what_it_knows() -> None:
    ledger = Ledger({"a1": "a"})
    ledger.lease(VERSIONS[0])
    ledger.gpu("a1")
    assert repr(ledger) == (
        "<Ledger gpu={'a1': <GpuTier 0 blocks of 0 salts>} ram={'a': <ChunkTier 0 bytes of 0 salts>} "
        "disk={'a': <ChunkTier 0 bytes of 0 salts>} leases={'0': 1}>"
    )
