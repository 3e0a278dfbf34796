"""`kvshelf documents`: add (with progress), list, pin, unpin, remove. `gateway/cli/tiers.py` has show, warm and evict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rich_click as click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from backends.extraction.extractor import Extractor
from backends.settings import Extraction
from gateway.cli import tiers
from gateway.cli.client import Client, connected
from gateway.cli.terminal import Terminal
from router.documents import slug
from router.errors import KvshelfError
from router.retention import MAX_TTL_S

OUT = Terminal()
ERR = Terminal(stderr=True)
PINNED = {"pinned": True, "ttl_s": None}
"""A pin from the command line ends a TTL: the gateway refuses to have both."""


def reading_progress() -> Progress:
    """A bar a document: tokens done of tokens."""
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeElapsedColumn(),
        console=ERR,
    )


async def follow(client: Client, job: str, progress: Progress, bar: TaskID) -> dict[str, Any]:
    """Draw a job until it ends; its last state. Raises ClickException where it failed."""
    async for event, data in client.events(f"/v1/jobs/{job}/events"):
        if event == "gone":
            raise click.ClickException("The document was replaced or removed while it was read.")
        progress.update(bar, completed=data["read_tokens"], total=data["prefix_tokens"])
        if event == "failed":
            raise click.ClickException(f"{data['document']} could not be read: {data['error']}")
        if event == "ready":
            ended: dict[str, Any] = data
            return ended
    raise click.ClickException("The gateway ended before the document was read; it goes on when it is back.")


@click.group()
def documents() -> None:
    """Add, list, show, pin, move and remove documents."""


@documents.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--id", "document_id", help="The document's id; by default made from the file's name. One FILE only.")
@click.option("--title", help="By default the document's first heading. One FILE only.")
@click.option("--shared", is_flag=True, help="For all tenants (the key needs the scope `share`).")
@click.option("--pin", is_flag=True, help="Keep its KV whatever else needs the room. Ends a TTL that it has.")
@click.option(
    "--ttl",
    "ttl_s",
    type=click.FloatRange(min=0, max=MAX_TTL_S, min_open=True),
    metavar="SECONDS",
    help="Keep its KV for so long, then answer cold. Ends a pin that it has.",
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until they are read.")
@click.option("--json", "as_json", is_flag=True)
@connected
async def add(
    client: Client,
    files: tuple[Path, ...],
    document_id: str | None,
    title: str | None,
    shared: bool,
    pin: bool,
    ttl_s: float | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Add FILES (text, Markdown or HTML in UTF-8, or PDF), or replace the content of documents of the same ids."""
    if len(files) > 1 and (document_id or title):
        raise click.UsageError("--id and --title go with one file.")
    if pin and ttl_s is not None:
        raise click.UsageError("A pinned document has no TTL: give --pin or --ttl.")
    # The one that is given counts, whatever the document had; where none is, that stays.
    kept = PINNED if pin else {"pinned": False, "ttl_s": ttl_s} if ttl_s is not None else {}
    ids = [document_id or slug(file.stem) for file in files]
    if twice := sorted({name for name in ids if name and ids.count(name) > 1}):
        raise click.UsageError(
            f"Several files would become the same document ({', '.join(twice)}): add them one by one, with --id."
        )
    # All are read before the first is sent: a file that can't be added leaves nothing half done.
    extractor = Extractor(Extraction())
    bodies = [await _body(extractor, file, name, title, shared) | kept for file, name in zip(files, ids, strict=True)]
    added = []
    for file, body in zip(files, bodies, strict=True):
        try:
            added.append(await client.json("POST", "/v1/documents", json=body))
        except click.ClickException as error:
            raise click.ClickException(f"{file}: {error.message}") from error
    if wait:
        with reading_progress() as progress:
            for document in added:
                bar = progress.add_task(document["id"], total=document["prefix_tokens"])
                if document["job"]:
                    document["job"] = await follow(client, document["job"]["id"], progress, bar)
                    document["state"] = document["job"]["state"]
                else:
                    progress.update(bar, completed=document["prefix_tokens"])
    if as_json:
        click.echo(json.dumps(added))
    elif not wait:
        for document in added:
            OUT.print(
                f"{document['id']}: {document['prefix_tokens']} tokens"
                + (f", job {document['job']['id']}" if document["job"] else ", there already")
            )


async def _body(extractor: Extractor, file: Path, document_id: str, title: str | None, shared: bool) -> dict[str, Any]:
    """What is posted of a file; the gateway makes the id where the file's name gives none. Raises ClickException."""
    try:
        text = await extractor.text_of_file(file)
    except OSError as error:
        raise click.ClickException(f"{file} can't be read: {error.strerror}") from error
    except KvshelfError as error:
        raise click.ClickException(str(error)) from error
    return {"id": document_id or None, "text": text, "title": title, "shared": shared}


@documents.command("list")
@click.option("--json", "as_json", is_flag=True)
@connected
async def list_documents(client: Client, as_json: bool) -> None:
    """List the documents that may be asked."""
    found = (await client.json("GET", "/v1/documents"))["data"]
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table()
    for column in ("id", "title", "tokens", "state", "shared", "tiers", "kept"):
        table.add_column(column)
    for document in found:
        table.add_row(
            document["id"],
            document["title"],
            str(document["document_tokens"]),
            "stale" if document["stale"] else document["state"],
            "yes" if document["shared"] else "",
            tiers.in_short(document),
            tiers.kept(document),
        )
    OUT.print(table)


@documents.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@connected
async def pin(client: Client, ids: tuple[str, ...]) -> None:
    """Keep documents' KV whatever else needs the room. Ends a TTL that they have."""
    for document_id in ids:
        await client.json("PATCH", f"/v1/documents/{document_id}", json=PINNED)
        OUT.print(f"{document_id}: pinned")


@documents.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@connected
async def unpin(client: Client, ids: tuple[str, ...]) -> None:
    """Let documents' KV go where others need the room more."""
    for document_id in ids:
        await client.json("PATCH", f"/v1/documents/{document_id}", json={"pinned": False})
        OUT.print(f"{document_id}: unpinned")


@documents.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@connected
async def remove(client: Client, ids: tuple[str, ...]) -> None:
    """Remove documents, and their KV from every tier."""
    for document_id in ids:
        await client.json("DELETE", f"/v1/documents/{document_id}")
        OUT.print(f"{document_id}: removed")


documents.add_command(tiers.show)
documents.add_command(tiers.warm)
documents.add_command(tiers.evict)
