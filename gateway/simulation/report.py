"""Runs policies over traces, and lays out what came of it: as JSON or as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec
from rich.table import Table

from gateway.simulation.optimum import optimum
from gateway.simulation.simulator import Outcome, simulate
from gateway.simulation.traces import TRACES, trace
from router.policies import CHOICES, DEFAULT

OPTIMUM = "optimum"
POLICIES = (*CHOICES, OPTIMUM)


class Report(msgspec.Struct, frozen=True):
    traces: dict[str, dict[str, Outcome]]
    """By trace, then by policy."""
    default: str = DEFAULT


def compare(
    *,
    traces: Sequence[str] = tuple(TRACES),
    policies: Sequence[str] = POLICIES,
    requests: int,
    documents: int,
    seed: int,
    on_run: Callable[[str, str], None] = lambda trace, policy: None,
) -> Report:
    """Every policy on every trace. `on_run` is called with both names before each run. KeyError for an unknown name."""
    found: dict[str, dict[str, Outcome]] = {}
    for name in traces:
        made = trace(name, requests=requests, documents=documents, seed=seed)
        found[name] = {}
        for policy in policies:
            on_run(name, policy)
            found[name][policy] = optimum(made) if policy == OPTIMUM else simulate(made, policy)
    return Report(found)


def to_json(report: Report) -> str:
    return msgspec.json.encode(report).decode()


def to_table(report: Report) -> Table:
    """A section a figure, a row a policy, a column a trace, and the mean over the traces; the default policy's rows are bold."""
    table = Table(title="served fast: KV on the GPU or in RAM when the question came")
    table.add_column("policy", no_wrap=True)
    for name in (*report.traces, "mean"):
        table.add_column(name, justify="right", no_wrap=True)
    policies = next(iter(report.traces.values()), {})
    figures: tuple[tuple[str, Callable[[Outcome], float], str], ...] = (
        ("served fast, %", lambda outcome: 100 * outcome.served_fast, ".1f"),
        ("mean wait, s", lambda outcome: outcome.mean_wait_s, ".3f"),
        ("moved, GB", lambda outcome: outcome.bytes_moved / 1e9, ",.0f"),
    )
    for title, figure, form in figures:
        table.add_section()
        table.add_row(title, style="dim")
        for policy in policies:
            values = [figure(outcomes[policy]) for outcomes in report.traces.values()]
            cells = [format(value, form) for value in (*values, fmean(values))]
            table.add_row(policy, *cells, style="bold" if policy == report.default else None)
    return table
