"""The simulator on traces so short that everything can be reckoned by hand."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from gateway.simulation.optimum import optimum
from gateway.simulation.simulator import Machine, Outcome, simulate
from gateway.simulation.traces import START_S, TRACES, Events, Trace, trace
from router.policies import CHOICES

MACHINE = Machine(
    token_bytes=10,
    ram_share=0.5,
    gpu_share=0.0,
    read_tokens_per_s=1.0,
    disk_latency_s=1.0,
    disk_bytes_per_s=1_000.0,
    ram_bytes_per_s=1e9,
)
"""A document of 100 tokens is 1,000 bytes: 2 s from disk, 100 s to read."""
FROM_DISK_S, TO_READ_S = 2.0, 100.0


def questions(
    documents: list[int], *, of: int = 4, every_s: float = 60.0, changed: frozenset[int] = frozenset(), tenant: int = 0
) -> Trace:
    """These documents (of 100 tokens) are asked, one every so many seconds; at the numbers in `changed` they change instead."""
    count = len(documents)
    flags = np.array([number in changed for number in range(count)])
    events = Events(START_S + 60.0 * np.arange(count), np.zeros(count, np.int64), np.array(documents), flags)
    return Trace("by hand", np.full(4, 100), events)


def test_the_first_question_waits_for_the_disk_and_the_next_finds_it_in_ram() -> None:
    got = simulate(questions([0, 0, 0, 0]), "lru", MACHINE)
    assert (got.served_fast, got.bytes_moved) == (0.75, 1_000)
    assert got.mean_wait_s == pytest.approx(FROM_DISK_S / 4, rel=1e-3)


def test_ram_holds_no_more_than_its_share() -> None:
    assert simulate(questions([0, 1, 0, 1, 2, 0]), "lru", MACHINE).served_fast == pytest.approx(2 / 6)
    assert simulate(questions([0, 1, 0, 1, 2, 1]), "lru", MACHINE).served_fast == pytest.approx(3 / 6)


def test_the_gpu_keeps_the_most_recent_whatever_the_policy_does() -> None:
    machine = msgspec.structs.replace(MACHINE, gpu_share=0.25, ram_share=0.0)
    got = simulate(questions([0, 0, 1, 0]), "lru", machine)
    assert (got.served_fast, got.bytes_moved) == (0.25, 3_000)


def test_what_the_disk_no_longer_holds_is_read_anew() -> None:
    machine = msgspec.structs.replace(MACHINE, disk_share=0.5, ram_share=0.25)
    got = simulate(questions([0, 1, 0]), "lru", machine)  # 2 and 3 lie on disk at the beginning, then 0 and 1
    assert got.bytes_moved == 3_000
    assert got.mean_wait_s == pytest.approx((TO_READ_S + TO_READ_S + FROM_DISK_S) / 3, rel=1e-3)


def test_the_last_copy_is_dear() -> None:
    """0 is asked often, stays in RAM while the disk drops it, and from its next question on is worth a reading."""
    machine = msgspec.structs.replace(MACHINE, disk_share=0.75)
    got = simulate(questions([0, 0, 0, 1, 2, 3, 0, *[1, 2, 3] * 5, 0]), "gdsf", machine)
    assert (got.served_fast, got.bytes_moved) == (4 / 23, 19_000)


def test_a_new_version_is_in_ram_once_it_was_read_and_the_old_one_is_not() -> None:
    got = simulate(questions([0, 0, 0], changed=frozenset({1})), "lru", MACHINE)
    assert (got.served_fast, got.bytes_moved) == (0.5, 2_000)


def test_a_document_larger_than_ram_is_answered_and_not_kept() -> None:
    machine = msgspec.structs.replace(MACHINE, ram_share=0.1)
    got = simulate(questions([0, 0]), "lru", machine)
    assert (got.served_fast, got.bytes_moved) == (0.0, 2_000)


def follow_up(between_s: float, *, changed_every: int = 0) -> Trace:
    """Thirty tenants, one about every half hour, ask a document and some seconds later another, 40 times. A fifth of all fits.

    With `changed_every`, the second document changes every so often a second before it is asked.
    """
    rows = []
    for number in range(40 * 30):
        tenant, at_s = number % 30, START_S + number * 1_850.0
        rows.append((at_s, tenant, 2 * tenant, False))
        if changed_every and number % changed_every == 0:
            rows.append((at_s + between_s - 1, tenant, 2 * tenant + 1, True))
        rows.append((at_s + between_s, tenant, 2 * tenant + 1, False))
    return Trace("follow up", np.full(60, 100), Events(*(np.array(column) for column in zip(*rows, strict=True))))


AHEAD = msgspec.structs.replace(MACHINE, ram_share=0.2)


def test_what_follows_is_brought_ahead() -> None:
    plain, ahead = simulate(follow_up(60.0), "density", AHEAD), simulate(follow_up(60.0), "kvshelf", AHEAD)
    assert ahead.served_fast > plain.served_fast + 0.3
    assert ahead.mean_wait_s < plain.mean_wait_s - 0.6


def test_what_is_not_there_in_time_helps_in_part() -> None:
    """The second question comes a second after the first was answered; what it needs takes two."""
    plain, ahead = simulate(follow_up(3.0), "density", AHEAD), simulate(follow_up(3.0), "kvshelf", AHEAD)
    assert ahead.served_fast < plain.served_fast + 0.1
    assert plain.mean_wait_s - 0.6 < ahead.mean_wait_s < plain.mean_wait_s - 0.3


def test_nothing_is_brought_where_the_next_question_comes_before_the_last_is_answered() -> None:
    assert simulate(follow_up(1.0), "kvshelf", AHEAD) == simulate(follow_up(1.0), "density", AHEAD)


def test_what_changes_on_its_way_is_not_brought() -> None:
    plain = simulate(follow_up(3.5), "kvshelf", AHEAD)
    changed = simulate(follow_up(3.5, changed_every=7), "kvshelf", AHEAD)
    assert changed.bytes_moved > plain.bytes_moved
    assert changed.served_fast > plain.served_fast  # what was just read is in RAM


@pytest.mark.parametrize("policy", CHOICES)
@pytest.mark.parametrize("name", TRACES)
def test_no_policy_is_better_than_the_optimum_but_by_prefetching(name: str, policy: str) -> None:
    made = trace(name, requests=600, documents=200, seed=3)
    got, bound = simulate(made, policy), optimum(made)
    assert 0 < got.served_fast < 1
    assert got.mean_wait_s > 0
    if not CHOICES[policy].prefetch:
        assert got.served_fast <= bound.served_fast
        assert got.mean_wait_s >= bound.mean_wait_s
        assert got.bytes_moved >= bound.bytes_moved


def test_the_optimum_holds_what_is_asked_again_soonest() -> None:
    """0 and 1 (1,000 bytes each) are asked at 0, 60, 120, 180 s as 0, 0, 1, 1: a whole trace's RAM is 2,000 × 180 byte-seconds."""
    tight = msgspec.structs.replace(MACHINE, ram_share=0.0001)
    assert optimum(questions([0, 0, 1, 1]), MACHINE) == Outcome(0.5, 2_000, pytest.approx(FROM_DISK_S / 2, rel=1e-3))
    assert optimum(questions([0, 0, 1, 1]), tight).served_fast == 0.25  # the one more that the bound allows
    assert optimum(questions([0, 0], changed=frozenset({0})), MACHINE).served_fast == 1.0


def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(KeyError):
        simulate(questions([0]), "mru")
