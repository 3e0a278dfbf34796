"""`kvshelf demo`: the whole thing once, on the real engine: read, ask cold, ask warm, restart everything, ask again.

Talks to the gateway as any client does, over HTTP; starts and ends it as a person would, with `kvshelf up` and a
signal. Leaves a table, `demo-report.json`, and nothing running.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
import rich_click as click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gateway import strict_yaml
from gateway.cli import key_file
from gateway.cli.ask import Answer, stream_answer
from gateway.cli.client import Client
from gateway.cli.documents import follow, reading_progress
from gateway.config import Config, load
from gateway.strict_yaml import ConfigError

OUT = Console(highlight=False, width=None if sys.stdout.isatty() else 140)

Phase = Literal["cold", "warm", "restarted"]

START_WITHIN_S = 600.0
STOP_WITHIN_S = 60.0
POLL_S = 0.3
ANSWER_TOKENS = 40
OTHER_COLUMNS = 90
"""The table's width in characters without its answers."""


class Question(msgspec.Struct, frozen=True):
    document: str
    question: str
    answer: str | tuple[str, ...] = ""
    places: tuple[str, ...] = ()
    paraphrase: str = ""


class Questions(msgspec.Struct, frozen=True):
    """The demo's questions: of each document the first is asked by name, the third is left to the gateway to place.

    The third, since all of those find their document: a sample that was chosen, and the README says so.
    """

    questions: tuple[Question, ...]
    off_topic: tuple[str, ...] = ()


class Row(msgspec.Struct):
    phase: Phase
    document: str
    routing: str
    score: float | None
    tier: str
    cached_tokens: int
    prompt_tokens: int
    first_token_s: float
    speedup: float | None
    answer: str


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--report", type=click.Path(path_type=Path), default=Path("demo-report.json"), show_default=True)
def demo(config_path: Path, report: Path) -> None:
    """Read the sample documents with the real engine, and compare cold, warm and restarted answers."""
    try:
        config = load(config_path)
        questions = strict_yaml.read(config_path.parent / "demo" / "questions.yaml", Questions)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    rows = asyncio.run(_Demo(config_path, config, questions).run())
    report.write_text(json.dumps({"rows": msgspec.to_builtins(rows)}, indent=2) + "\n")
    OUT.print(_table(rows))
    OUT.print(f"Written to {report}. Everything that was started is stopped. `make up` keeps it running.")


class _Demo:
    def __init__(self, config_path: Path, config: Config, questions: Questions) -> None:
        self._config_path = config_path
        self._config = config
        self._questions = questions
        self._key_path = config.data_path / "demo-key"
        self._cold_s: dict[str, float] = {}
        self._rows: list[Row] = []

    async def run(self) -> list[Row]:
        async with self._gateway() as client:
            documents = await self._read(client)
            OUT.print("\n[bold]Cold[/bold]: a question to each with no KV reused (`cache-control: no-cache`), as without kvshelf")
            for document in documents:
                await self._ask(client, "cold", self._of(document["id"])[0], named=True)
            OUT.print("\n[bold]Warm[/bold]: each by name, then one more without a name")
            for document in documents:
                named, _, found, *_ = self._of(document["id"])
                await self._ask(client, "warm", named, named=True)
                await self._ask(client, "warm", found, named=False)
        OUT.print("\n[bold]Restarted[/bold]: worker, KV server and gateway were ended and start again; only files are left")
        async with self._gateway() as client:
            for document in documents:
                await self._ask(client, "restarted", self._of(document["id"])[0], named=True)
        return self._rows

    @asynccontextmanager
    async def _gateway(self) -> AsyncIterator[Client]:
        """`kvshelf up` as its own process, until it is ready; ended at the end, whatever happens."""
        log_path = self._config.data_path / "logs" / "gateway.log"
        await asyncio.to_thread(log_path.parent.mkdir, parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "up", str(self._config_path), "--key-file", str(self._key_path)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to pass on, once
        )
        assert process.stderr is not None  # noqa: S101 - asked for above  # nosec B101
        lines: list[str] = []
        showing = asyncio.create_task(_show(process.stderr, log_path, lines))
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)) as session:
                url = f"http://{self._config.server.host}:{self._config.server.port}"
                await _ready(session, url, process, lines)
                yield Client(url, await key_file.read(self._key_path), session)
        finally:
            await _end(process)
            await showing
        if process.returncode != 0:
            raise click.ClickException(f"`kvshelf up` ended with {process.returncode}; its log is {log_path}.")

    async def _read(self, client: Client) -> list[dict[str, Any]]:
        """Follow all readings, a bar each; documents that are cached from an earlier run are there at once."""
        documents: list[dict[str, Any]] = (await client.json("GET", "/v1/documents"))["data"]
        asked = {question.document for question in self._questions.questions}
        documents = [document for document in documents if document["id"] in asked]
        if not documents:
            raise click.ClickException("The catalog shows none of the demo's documents; see the gateway's log.")
        OUT.print("\n[bold]Reading[/bold] each document once (those read by an earlier run are kept)")
        started = time.perf_counter()
        with reading_progress() as progress:
            following = []
            for document in documents:
                bar = progress.add_task(document["id"], total=document["prefix_tokens"])
                if document["job"]:
                    following.append(follow(client, document["job"]["id"], progress, bar))
                else:
                    progress.update(bar, completed=document["prefix_tokens"])
            await asyncio.gather(*following)
        for document in documents:
            if not document["job"]:  # kept by an earlier run: the first question brings it back, which is no warm one
                got = await stream_answer(client, "What is this?", document=document["id"], max_tokens=1)
                OUT.print(
                    f"  [dim]{document['id']}: kept from an earlier run, back from {got.tier} in {got.first_token_s or 0:.2f} s[/dim]"
                )
        tokens = sum(document["prefix_tokens"] for document in documents)
        OUT.print(f"{len(documents)} documents, {tokens} tokens, {time.perf_counter() - started:.1f} s")
        return documents

    def _of(self, document: str) -> list[Question]:
        return [question for question in self._questions.questions if question.document == document]

    async def _ask(self, client: Client, phase: Phase, question: Question, *, named: bool) -> None:
        document = question.document if named else None
        try:
            got = await stream_answer(client, question.question, document=document, max_tokens=ANSWER_TOKENS, cold=phase == "cold")
        except click.ClickException as error:
            if named:
                raise
            OUT.print(f"  [red]not placed[/red] {question.question} ({question.document}): {error.message}", soft_wrap=True)
            return
        if got.first_token_s is None:
            raise click.ClickException(f"{question.document}: no answer to {question.question!r}.")
        if phase == "cold":
            self._cold_s[got.document] = got.first_token_s
        self._rows.append(self._row(phase, got, got.first_token_s))
        elsewhere = "" if got.document == question.document else f" [red](it is about {question.document})[/red]"
        OUT.print(
            f"  [dim]{got.first_token_s:7.2f} s[/dim]  {got.document}{elsewhere}: {question.question} [green]{got.answer.strip()!r}[/green]",
            soft_wrap=True,
        )

    def _row(self, phase: Phase, got: Answer, first_token_s: float) -> Row:
        cold_s = self._cold_s.get(got.document)
        return Row(
            phase=phase,
            document=got.document,
            routing=got.routing,
            score=got.score,
            tier=got.tier,
            cached_tokens=got.cached_tokens,
            prompt_tokens=got.prompt_tokens,
            first_token_s=round(first_token_s, 4),
            speedup=round(cold_s / first_token_s, 1) if cold_s is not None else None,
            answer=got.answer.strip(),
        )


async def _show(stream: asyncio.StreamReader, log_path: Path, lines: list[str]) -> None:
    """What the gateway says of its start goes to the terminal, its log lines (JSON) to the file, all of it to `lines`."""
    with log_path.open("a") as log:
        async for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            lines.append(line)
            if line.startswith("{"):
                log.write(line + "\n")
            elif line:
                OUT.print(f"[dim]{line}[/dim]", markup=True, soft_wrap=True)


async def _ready(session: aiohttp.ClientSession, url: str, process: asyncio.subprocess.Process, lines: list[str]) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        if process.returncode is not None:
            raise click.ClickException("The engine or the gateway did not start:\n" + "\n".join(lines[-15:]))
        try:
            async with session.get(f"{url}/health/ready") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            pass  # not listening yet
        await asyncio.sleep(POLL_S)
    raise click.ClickException(f"The gateway was not ready within {START_WITHIN_S:.0f} s; its log says why.")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _table(rows: Iterable[Row]) -> Table:
    table = Table(title="First token, by where the document's KV was", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("phase", "document", "routed", "tier"):
        table.add_column(column, no_wrap=True)
    for column in ("cached/prompt", "first", "× cold"):
        table.add_column(column, no_wrap=True, justify="right")
    room = OUT.width - OTHER_COLUMNS
    answers = room >= 20  # on a narrow terminal they are left to the lines above
    if answers:
        table.add_column("answer", no_wrap=True)
    for row in rows:
        answer = " ".join(row.answer.split())
        table.add_row(
            row.phase,
            row.document,
            row.routing if row.score is None else f"found {row.score:.2f}",
            row.tier,
            f"{row.cached_tokens}/{row.prompt_tokens}",
            f"{row.first_token_s:.2f} s",
            f"{row.speedup:.0f}" if row.speedup is not None else "",
            *([answer if len(answer) <= room else answer[: room - 1] + "…"] if answers else []),
        )
    return table
