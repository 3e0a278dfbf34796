"""`kvshelf simulate`: needs no gateway and no engine."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result

from gateway.__main__ import main
from gateway.simulation.traces import TRACES
from router.policies import CHOICES, DEFAULT


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["simulate", "--requests", "40", "--documents", "30", *arguments], env={"COLUMNS": "200"})


def test_json_is_one_object_of_every_trace_and_policy() -> None:
    result = simulate("--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, set(found), found["default"]) == (0, {"traces", "default"}, DEFAULT)
    assert {name: list(outcomes) for name, outcomes in found["traces"].items()} == {name: [*CHOICES, "optimum"] for name in TRACES}
    for outcomes in found["traces"].values():
        for outcome in outcomes.values():
            assert {name: type(value) for name, value in outcome.items()} == {
                "served_fast": float,
                "bytes_moved": int,
                "mean_wait_s": float,
            }


def test_a_table_is_shown_of_the_traces_and_policies_that_were_named_each_once() -> None:
    result = simulate("--trace", "scans", "--trace", "daily", "--trace", "scans", "--policy", "lru", "--policy", "optimum")
    assert result.exit_code == 0
    head = next(line for line in result.stdout.splitlines() if "policy" in line)
    assert head.replace("┃", " ").split() == ["policy", "scans", "daily", "mean"]
    assert {line.replace("│", " ").split()[0] for line in result.stdout.splitlines() if "│" in line} == {
        "lru",
        "optimum",
        "served",
        "mean",
        "moved,",
    }


def test_another_seed_gives_other_figures_and_the_same_the_same() -> None:
    first, again, other = (simulate("--json", "--policy", "lru", "--seed", seed).stdout for seed in ("1", "1", "2"))
    assert first == again != other


def test_an_unknown_trace_or_policy_is_refused_with_those_there_are() -> None:
    for option in ("--trace", "--policy"):
        result = simulate(option, "mru")
        assert result.exit_code == 2
        assert "lru" in result.stderr or "scans" in result.stderr


def test_help_says_how_long_it_takes() -> None:
    assert "25 seconds" in simulate("--help").stdout
