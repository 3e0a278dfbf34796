"""`kvshelf simulate`: the policies for RAM, compared on made-up traces."""

from __future__ import annotations

import rich_click as click
from rich.console import Console
from rich.progress import Progress

from gateway.simulation import report
from gateway.simulation.traces import TRACES

OUT = Console(highlight=False, markup=False, emoji=False)
ERR = Console(stderr=True)


@click.command()
@click.option(
    "--trace", "traces", multiple=True, type=click.Choice(tuple(TRACES)), help="A trace to run; repeatable. All, if absent."
)
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(report.POLICIES), help="A policy; repeatable. All, if absent."
)
@click.option("--requests", type=click.IntRange(1), default=30_000, show_default=True, help="Questions a trace.")
@click.option("--documents", type=click.IntRange(1), default=10_000, show_default=True, help="Documents, of uneven size.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The traces are made from it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def simulate(traces: tuple[str, ...], policies: tuple[str, ...], requests: int, documents: int, seed: int, as_json: bool) -> None:
    """Compare the policies that decide what RAM holds, without an engine.

    Every policy runs over every trace: which share of the questions finds its document's KV on the GPU or in RAM, how
    long a question waits for KV on average, and how many bytes are moved for that. RAM holds 5 % of all KV, the GPU 1 %,
    the disk everything. `kvshelf` and `gdsf+prefetch` bring likely documents ahead; `optimum` is a bound for those
    that don't. Takes about 25 seconds on a slow core, in proportion to the questions.
    """
    names, chosen = tuple(dict.fromkeys(traces or TRACES)), tuple(dict.fromkeys(policies or report.POLICIES))
    with Progress(console=ERR, transient=True) as progress:
        task = progress.add_task("", total=len(names) * len(chosen))

        def show(trace: str, policy: str) -> None:
            progress.update(task, description=f"{trace}: {policy}")
            progress.advance(task)

        found = report.compare(traces=names, policies=chosen, requests=requests, documents=documents, seed=seed, on_run=show)
    if as_json:
        click.echo(report.to_json(found))
    else:
        OUT.print(report.to_table(found))
