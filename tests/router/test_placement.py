"""Choosing a worker: filter, score, and a hash that keeps versions where they are."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from router.documents import VersionId
from router.placement import WorkerView, choose

VERSIONS = [VersionId(f"version-{number}") for number in range(600)]

VIEWS = st.builds(
    WorkerView,
    name=st.sampled_from("abcdef"),
    healthy=st.booleans(),
    running=st.integers(0, 5),
    capacity=st.integers(0, 4),
    holds=st.sampled_from([0.0, 0.5, 1.0]),
)
WORKERS = st.lists(VIEWS, max_size=6, unique_by=lambda view: view.name)


def idle(*names: str) -> list[WorkerView]:
    return [WorkerView(name, healthy=True, running=0, capacity=8) for name in names]


def busy(name: str, running: int, holds: float = 0.0) -> WorkerView:
    return WorkerView(name, healthy=True, running=running, capacity=8, holds=holds)


def placed(*names: str) -> dict[VersionId, str | None]:
    return {version: choose(version, idle(*names)) for version in VERSIONS}


@settings(max_examples=100, deadline=None)
@given(workers=WORKERS, avoid=st.frozensets(st.sampled_from("abcdef"), max_size=3), version=st.sampled_from(VERSIONS))
def test_a_full_an_unhealthy_and_an_avoided_worker_are_never_chosen(
    workers: list[WorkerView], avoid: frozenset[str], version: VersionId
) -> None:
    able = {w.name for w in workers if w.healthy and w.running < w.capacity} - avoid
    chosen = choose(version, workers, avoid=avoid)
    assert chosen in able if able else chosen is None


@settings(max_examples=50, deadline=None)
@given(workers=WORKERS, version=st.sampled_from(VERSIONS), rng=st.randoms())
def test_the_choice_does_not_depend_on_the_workers_order(workers: list[WorkerView], version: VersionId, rng: random.Random) -> None:
    shuffled = rng.sample(workers, len(workers))
    assert choose(version, shuffled) == choose(version, workers)


def test_the_worker_that_holds_the_version_answers() -> None:
    for version in VERSIONS[:20]:
        assert choose(version, [*idle("a", "b"), busy("c", 1, holds=1.0)]) == "c"


def test_among_equals_the_less_busy_one_answers() -> None:
    for version in VERSIONS[:20]:
        assert choose(version, [busy("a", 3), busy("b", 2), busy("c", 4)]) == "b"


def test_a_held_version_does_not_outweigh_a_queue_that_is_over_half_full() -> None:
    assert choose(VERSIONS[0], [busy("a", 5, holds=1.0), busy("b", 0)]) == "b"
    assert choose(VERSIONS[0], [busy("a", 3, holds=1.0), busy("b", 0)]) == "a"


def test_versions_are_spread_evenly_over_idle_workers() -> None:
    shares = Counter(placed("a", "b", "c").values())
    assert set(shares) == {"a", "b", "c"}
    assert min(shares.values()) > len(VERSIONS) / 3 * 0.8


def test_a_worker_that_leaves_moves_only_its_own_versions() -> None:
    before, after = placed("a", "b", "c"), placed("a", "b")
    assert {version for version in VERSIONS if before[version] != after[version]} == {v for v in VERSIONS if before[v] == "c"}


def test_a_worker_that_joins_takes_only_its_share() -> None:
    before, after = placed("a", "b", "c"), placed("a", "b", "c", "d")
    moved = [version for version in VERSIONS if before[version] != after[version]]
    assert {after[version] for version in moved} == {"d"}
    assert 0.8 < len(moved) / (len(VERSIONS) / 4) < 1.2
