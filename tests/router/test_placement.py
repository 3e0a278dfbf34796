"""Choosing a worker: filter, score, and a hash that keeps versions where they are."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from router.documents import Salt, Version, VersionId
from router.placement import BALANCE, BATCH, TOLERANCE, Costs, WorkerView, choose, restoring_s

COSTS = Costs()
CAPACITY = 64


def version(number: int, tokens: int = 6400) -> Version:
    id_ = VersionId(f"version-{number}")
    return Version(id=id_, digest="", fingerprint="", salt=Salt(id_), document_tokens=tokens, prefix_tokens=tokens)


VERSIONS = [version(number) for number in range(600)]

SHARES = st.sampled_from([0.0, 0.04, 0.5, 0.96, 1.0])
ANY_VERSION = st.builds(version, st.integers(0, 99), st.sampled_from([256, 6400, 100_096]))
VIEWS = st.builds(
    WorkerView,
    name=st.sampled_from("abcdef"),
    healthy=st.booleans(),
    running=st.integers(0, 33) | st.integers(0, 3),
    capacity=st.integers(0, 32),
    elsewhere=st.integers(0, 9) | st.just(0),
    gpu=SHARES,
    ram=SHARES,
    disk=SHARES,
)
WORKERS = st.lists(VIEWS, max_size=6, unique_by=lambda view: view.name)
AVOIDED = st.frozensets(st.sampled_from("abcdef"), max_size=3)


def idle(*names: str) -> list[WorkerView]:
    return [WorkerView(name, healthy=True, running=0, capacity=CAPACITY) for name in names]


def worker(name: str, running: int = 0, *, elsewhere: int = 0, gpu: float = 0.0, ram: float = 0.0, disk: float = 0.0) -> WorkerView:
    return WorkerView(name, True, running, CAPACITY, elsewhere, gpu, ram, disk)


def able(workers: Sequence[WorkerView], avoid: Collection[str] = ()) -> list[WorkerView]:
    return [w for w in workers if w.healthy and w.running < w.capacity and w.name not in avoid]


def bound(workers: Sequence[WorkerView], placed: int) -> int:
    """The highest load that is fair once `placed` more questions are on these workers."""
    return max(math.ceil(BALANCE * (sum(w.running + w.elsewhere for w in workers) + placed) / len(workers) + 1), BATCH)


def placed(*names: str) -> dict[str, str | None]:
    return {v.id: choose(v, idle(*names)) for v in VERSIONS}


# --- filter


@settings(max_examples=200)
@given(workers=WORKERS, avoid=AVOIDED, version=ANY_VERSION)
def test_some_worker_that_can_is_chosen_and_none_that_cannot(
    workers: list[WorkerView], avoid: frozenset[str], version: Version
) -> None:
    names = {w.name for w in able(workers, avoid)}
    chosen = choose(version, workers, avoid=avoid)
    assert chosen in names if names else chosen is None


@settings(max_examples=200)
@given(workers=WORKERS, version=ANY_VERSION)
def test_no_worker_is_brought_over_its_fair_load(workers: list[WorkerView], version: Version) -> None:
    assume(able(workers))
    chosen = next(w for w in workers if w.name == choose(version, workers))
    assert chosen.running + chosen.elsewhere + 1 <= bound(able(workers), 1)


def test_a_worker_that_holds_the_version_is_passed_over_when_its_load_is_unfair() -> None:
    others = [worker(name, 4) for name in "bcd"]
    assert choose(VERSIONS[0], [worker("a", 7, gpu=1.0), *others]) == "a"
    assert choose(VERSIONS[0], [worker("a", 8, gpu=1.0), *others]) != "a"  # 9 > ceil(1.25 × 21/4 + 1) = 8


def test_what_is_fair_counts_the_question_that_is_placed() -> None:
    others = [worker(name, 7) for name in "bcd"]
    assert choose(VERSIONS[0], [worker("a", 11, gpu=1.0), *others]) == "a"  # 12 = ceil(1.25 × 33/4 + 1), of 32/4 it were 11
    assert choose(VERSIONS[0], [worker("a", 12, gpu=1.0), *others]) != "a"


def test_a_load_that_is_computed_in_one_batch_sends_nobody_to_a_worker_that_would_have_to_read() -> None:
    assert choose(VERSIONS[0], [worker("a", 7, gpu=1.0), *idle("b", "c", "d")]) == "a"
    assert choose(VERSIONS[0], [worker("a", 8, gpu=1.0), *idle("b", "c", "d")]) != "a"


def test_a_worker_that_is_full_does_not_raise_what_is_fair_for_the_others() -> None:
    full = WorkerView("full", True, 8, 8, 200)
    for load in (7, 8):
        by_itself = choose(VERSIONS[0], [worker("a", load, gpu=1.0), worker("b")])
        assert by_itself == choose(VERSIONS[0], [full, worker("a", load, gpu=1.0), worker("b")]) == ("a" if load == 7 else "b")


# --- score


@settings(max_examples=200)
@given(workers=WORKERS, version=ANY_VERSION, rng=st.randoms())
def test_the_choice_does_not_depend_on_the_workers_order(workers: list[WorkerView], version: Version, rng: random.Random) -> None:
    shuffled = rng.sample(workers, len(workers))
    assert choose(version, shuffled) == choose(version, workers)


@settings(max_examples=200)
@given(workers=WORKERS, version=ANY_VERSION)
def test_nobody_waits_much_longer_than_at_the_best_of_the_fair_workers(workers: list[WorkerView], version: Version) -> None:
    assume(able(workers))
    waits = {
        w.name: (w.running + w.elsewhere) * COSTS.question_s + restoring_s(version, w, COSTS)
        for w in able(workers)
        if w.running + w.elsewhere + 1 <= bound(able(workers), 1)
    }
    assert waits[choose(version, workers) or ""] <= min(waits.values()) * (1 + TOLERANCE) + 1e-9


@settings(max_examples=200)
@given(workers=WORKERS.filter(len), number=st.integers(0, 5), version=ANY_VERSION)
def test_a_version_stays_where_it_is_held_while_no_queue_is_shorter(
    workers: list[WorkerView], number: int, version: Version
) -> None:
    number %= len(workers)
    least = min(w.running + w.elsewhere for w in workers)
    workers = [replace(w, gpu=min(w.gpu, 0.96)) for w in workers]
    workers[number] = replace(workers[number], healthy=True, running=least, elsewhere=0, capacity=least + 1, gpu=1.0)
    assert choose(version, workers) == workers[number].name


@pytest.mark.parametrize(
    ("shares", "seconds"),
    [
        ({}, 40.0),
        ({"gpu": 1.0}, 0.0),
        ({"ram": 1.0}, 0.4),
        ({"disk": 1.0}, 3.0),
        ({"gpu": 0.5, "ram": 1.0}, 0.2),
        ({"gpu": 1.0, "ram": 0.2, "disk": 0.1}, 0.0),
        ({"gpu": 0.25, "ram": 0.5, "disk": 0.75}, 0.1 + 0.75 + 10.0),
        ({"ram": 0.5, "disk": 0.25}, 0.2 + 20.0),
    ],
)
def test_restoring_takes_each_part_from_the_fastest_tier_that_has_it(shares: dict[str, float], seconds: float) -> None:
    costs = Costs(ram_s=0.04, disk_s=0.3, reading_s=4.0)
    assert restoring_s(version(0, 10_000), worker("a", **shares), costs) == pytest.approx(seconds)  # type: ignore[arg-type]


def test_the_worker_that_holds_the_version_answers_whichever_it_is() -> None:
    for v in VERSIONS[:20]:
        assert choose(v, [*idle("a", "b"), worker("c", gpu=1.0)]) == "c"


def test_a_host_that_has_a_copy_answers_before_one_that_has_none_and_ram_before_disk() -> None:
    for v in VERSIONS[:20]:
        assert choose(v, [worker("a"), worker("b", disk=1.0)]) == "b"
        assert choose(v, [worker("a", disk=1.0), worker("b", disk=1.0, ram=1.0)]) == "b"
        assert choose(v, [worker("a", ram=1.0, disk=1.0), worker("b", ram=0.5)]) == "a"


def test_a_queue_is_waited_in_until_a_copy_elsewhere_is_sooner() -> None:
    # 6,400 tokens from RAM take 0.256 s, a question before it 0.25.
    assert choose(VERSIONS[0], [worker("a", 1, gpu=1.0), worker("b", ram=1.0)]) == "a"
    assert choose(VERSIONS[0], [worker("a", 2, gpu=1.0), worker("b", ram=1.0)]) == "b"
    assert choose(VERSIONS[0], [worker("a", 2, gpu=1.0), worker("b", disk=1.0)]) == "a"
    slow_questions = Costs(question_s=2.0)
    assert choose(VERSIONS[0], [worker("a", 1, gpu=1.0), worker("b", disk=1.0)], slow_questions) == "b"


def test_requests_from_elsewhere_are_a_queue_too() -> None:
    for v in VERSIONS[:20]:
        assert choose(v, [worker("a", elsewhere=3, ram=1.0), worker("b", 1, ram=1.0)]) == "b"


def test_among_holders_the_less_busy_one_answers() -> None:
    for v in VERSIONS[:20]:
        assert choose(v, [worker("a", 3, gpu=1.0), worker("b", 2, gpu=1.0), worker("c", 4, gpu=1.0)]) == "b"


# --- pick


def test_versions_are_spread_evenly_over_idle_workers() -> None:
    shares = Counter(placed("a", "b", "c").values())
    assert set(shares) == {"a", "b", "c"}
    assert min(shares.values()) > len(VERSIONS) / 3 * 0.8


def test_a_worker_that_leaves_moves_only_its_own_versions() -> None:
    before, after = placed("a", "b", "c"), placed("a", "b")
    assert {v.id for v in VERSIONS if before[v.id] != after[v.id]} == {v.id for v in VERSIONS if before[v.id] == "c"}


def test_a_worker_that_joins_takes_only_its_share() -> None:
    before, after = placed("a", "b", "c"), placed("a", "b", "c", "d")
    moved = [v.id for v in VERSIONS if before[v.id] != after[v.id]]
    assert {after[id_] for id_ in moved} == {"d"}
    assert 0.8 < len(moved) / (len(VERSIONS) / 4) < 1.2


def test_a_question_under_way_moves_no_reading_from_its_home() -> None:
    homes = placed("a", "b", "c")
    for v in VERSIONS[:50]:
        busy = [replace(w, running=1) if w.name == homes[v.id] else w for w in idle("a", "b", "c")]
        assert choose(v, busy) == homes[v.id]


def test_a_version_that_all_hold_alike_has_one_home_as_one_that_nobody_holds() -> None:
    homes = placed("a", "b", "c")
    for v in VERSIONS[:50]:
        assert choose(v, [worker(name, gpu=1.0) for name in "abc"]) == homes[v.id]


# --- a hot document

HOSTS = {
    "one host": {"a": "one", "b": "one", "c": "one", "d": "one"},
    "two hosts": {"a": "one", "b": "one", "c": "two", "d": "two"},
    "a host each": {"a": "one", "b": "two", "c": "three", "d": "four"},
}


class Cluster:
    """Workers that hold on their GPU, and in their host's RAM, what they were asked."""

    def __init__(self, hosts: dict[str, str]) -> None:
        self.hosts = hosts
        self.running = dict.fromkeys(hosts, 0)
        self.gpu: dict[str, set[VersionId]] = {name: set() for name in hosts}

    def ask(self, version: Version) -> str:
        """Ask; the question stays under way until `running` is lowered."""
        name = choose(version, self.views(version))
        assert name is not None
        self.running[name] += 1
        self.gpu[name].add(version.id)
        return name

    def views(self, version: Version) -> list[WorkerView]:
        hosts = {self.hosts[name] for name, versions in self.gpu.items() if version.id in versions}
        return [
            worker(name, running, gpu=float(version.id in self.gpu[name]), ram=float(self.hosts[name] in hosts))
            for name, running in self.running.items()
        ]


@pytest.mark.parametrize("hosts", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("tokens", [256, 6400, 100_096])
def test_a_hot_document_spreads_and_comes_back_to_one_worker(hosts: dict[str, str], tokens: int) -> None:
    cluster, hot = Cluster(hosts), version(1, tokens)
    home = cluster.ask(hot)
    for placed in range(2, 65):
        cluster.ask(hot)
        assert max(cluster.running.values()) <= max(math.ceil(BALANCE * placed / 4 + 1), BATCH)
    assert max(cluster.running.values()) <= 21
    assert sum(cluster.running.values()) == 64
    assert min(cluster.running.values()) > 0
    cluster.running = dict.fromkeys(hosts, 0)
    after = set()
    for _ in range(20):
        after.add(name := cluster.ask(hot))
        cluster.running[name] -= 1
    assert after == {home}


@pytest.mark.parametrize("hosts", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("hot_share", [0.0, 0.7])
def test_under_common_load_a_document_is_read_once_and_no_second_host_reads_it_too(hosts: dict[str, str], hot_share: float) -> None:
    """Eight questions under way at any time, ending in any order, about many documents or most of them about one."""
    rng, cluster = random.Random(7), Cluster(hosts)  # noqa: S311 - the same every time
    under_way: list[str] = []
    readings: Counter[VersionId] = Counter()
    for _ in range(1500):
        asked = VERSIONS[0] if rng.random() < hot_share else rng.choice(VERSIONS[:30])
        before = {w.name: w for w in cluster.views(asked)}
        name = cluster.ask(asked)
        readings[asked.id] += max(before[name].gpu, before[name].ram) < 1
        under_way.append(name)
        if len(under_way) == 8:
            cluster.running[under_way.pop(rng.randrange(8))] -= 1
    assert len(readings) == 30
    assert max(readings.values()) == 1
