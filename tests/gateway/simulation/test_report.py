"""The comparison: every policy on every trace, as JSON and as a table; and the evidence for the default policy, in small."""

from __future__ import annotations

import json
from statistics import fmean

import pytest
from rich.console import Console

from gateway.simulation.report import OPTIMUM, POLICIES, Report, compare, to_json, to_table
from gateway.simulation.simulator import Outcome
from gateway.simulation.traces import TRACES
from router.policies import CHOICES, DEFAULT

SMALL = Report(
    {
        "scans": {"lru": Outcome(0.5, 3_000_000_000, 1.0), DEFAULT: Outcome(0.75, 1_500_000_000, 0.5)},
        "daily": {"lru": Outcome(0.25, 1_000_000_000, 2.0), DEFAULT: Outcome(0.5, 0, 1.0)},
    }
)


def test_every_policy_runs_on_every_trace() -> None:
    told: list[tuple[str, str]] = []
    report = compare(requests=50, documents=40, seed=1, on_run=lambda trace, policy: told.append((trace, policy)))
    assert {name: tuple(outcomes) for name, outcomes in report.traces.items()} == dict.fromkeys(TRACES, (*CHOICES, OPTIMUM))
    assert told == [(trace, policy) for trace in TRACES for policy in POLICIES]


def test_only_what_is_asked_for_runs_and_the_same_seed_gives_the_same() -> None:
    first, again, other = (compare(traces=["scans"], policies=["lru"], requests=300, documents=40, seed=seed) for seed in (1, 1, 2))
    assert list(first.traces) == ["scans"]
    assert list(first.traces["scans"]) == ["lru"]
    assert first == again != other


def test_as_json_it_is_what_was_found_and_the_default_and_no_more() -> None:
    assert json.loads(to_json(SMALL)) == {
        "traces": {
            "scans": {
                "lru": {"served_fast": 0.5, "bytes_moved": 3_000_000_000, "mean_wait_s": 1.0},
                DEFAULT: {"served_fast": 0.75, "bytes_moved": 1_500_000_000, "mean_wait_s": 0.5},
            },
            "daily": {
                "lru": {"served_fast": 0.25, "bytes_moved": 1_000_000_000, "mean_wait_s": 2.0},
                DEFAULT: {"served_fast": 0.5, "bytes_moved": 0, "mean_wait_s": 1.0},
            },
        },
        "default": DEFAULT,
    }


def test_as_a_table_it_has_every_figure_and_the_means() -> None:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(to_table(SMALL))
    lines = [line.replace("│", " ").split() for line in shown.get().splitlines() if "│" in line]
    assert [line for line in lines if line[0] == "lru"] == [
        ["lru", "50.0", "25.0", "37.5"],
        ["lru", "1.000", "2.000", "1.500"],
        ["lru", "3", "1", "2"],
    ]
    assert [line for line in lines if line[0] == DEFAULT][1] == [DEFAULT, "0.500", "1.000", "0.750"]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_default_serves_more_questions_fast_and_lets_them_wait_less_than_lru(seed: int) -> None:
    """A sixth of what `kvshelf simulate` runs, on which less can be learned; it loses on no trace by more than chance."""
    report = compare(policies=["lru", DEFAULT], requests=5_000, documents=1_000, seed=seed)
    lru, ours = ([outcomes[name] for outcomes in report.traces.values()] for name in ("lru", DEFAULT))
    assert fmean(one.served_fast for one in ours) > fmean(one.served_fast for one in lru) + 0.03
    assert fmean(one.mean_wait_s for one in ours) < fmean(one.mean_wait_s for one in lru) * 0.97
    for mine, theirs in zip(ours, lru, strict=True):
        assert mine.served_fast > theirs.served_fast
        assert mine.mean_wait_s < theirs.mean_wait_s * 1.01
