"""`kvshelf documents warm`, `evict` and `show`: where a document's KV is, and moving it; in words for people."""

from __future__ import annotations

import datetime
import json
from typing import Any

import rich_click as click
from rich import box
from rich.table import Table

from gateway.cli.client import Client, connected
from gateway.cli.terminal import Terminal

OUT = Terminal()
ERR = Terminal(stderr=True)
ORDER = ("gpu", "ram", "disk")
PLAIN = ("id", "title", "summary", "tags", "questions", "shared", "source", "state")
"""What `show` prints as the gateway gives it."""


@click.command()
@click.argument("document_id", metavar="ID")
@click.option("--tier", type=click.Choice(("ram", "gpu")), help="By default ram; gpu where --worker is given.")
@click.option("--worker", help="Onto whose GPU; needed where there are several workers.")
@click.option("--host", help="Into whose RAM; by default that of the host which has most of it on disk.")
@connected
async def warm(client: Client, document_id: str, tier: str | None, worker: str | None, host: str | None) -> None:
    """Bring a document's KV to RAM or onto a GPU. What is on no disk is read again."""
    asked = {"tier": tier or ("gpu" if worker else "ram"), "worker": worker, "host": host}
    body = {name: value for name, value in asked.items() if value is not None}
    job = await _moved(client, document_id, "warm", body)
    OUT.print(f"{document_id}: in {job['tier']}" + (f" of {job['where']}" if job["where"] else ""))


@click.command()
@click.argument("document_id", metavar="ID")
@click.option("--tier", type=click.Choice(("ram", "disk", "all")), default="all", show_default=True, help="Where from.")
@connected
async def evict(client: Client, document_id: str, tier: str) -> None:
    """Remove a document's KV from RAM, from disk, or from both, on every host. The document stays and can be asked."""
    await _moved(client, document_id, "evict", {"tier": tier})
    OUT.print(f"{document_id}: evicted from {'ram and disk' if tier == 'all' else tier}")


@click.command()
@click.argument("document_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True)
@connected
async def show(client: Client, document_id: str, as_json: bool) -> None:
    """Show one document, and where its KV is."""
    document = await client.json("GET", f"/v1/documents/{document_id}")
    if as_json:
        click.echo(json.dumps(document))
        return
    for name, value in _lines(document):
        OUT.print(f"{name:<16}{value}", soft_wrap=True)
    OUT.print(_table(document["tiers"]) if document["tiers"] else f"{'tiers':<16}none: the next question has it read")


def in_short(document: dict[str, Any]) -> str:
    """The tiers that hold a document, each with its share where that is not all: "gpu ram", "disk 60 %"."""
    best = {name: max((t["share"] for t in document["tiers"] if t["tier"] == name), default=None) for name in ORDER}
    return " ".join(name if share >= 1 else f"{name} {int(share * 100)} %" for name, share in best.items() if share is not None)


def kept(document: dict[str, Any]) -> str:
    """How long its KV is kept; nothing where that is as long as there is room."""
    if document["pinned"]:
        return "pinned"
    if document["expired"]:
        return "expired"
    return f"until {_minute(document['expire_at'])}" if document["expire_at"] else ""


async def _moved(client: Client, document_id: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """Have it moved, and wait; the job as it ended. Raises ClickException where it failed."""
    job = await client.json("POST", f"/v1/documents/{document_id}/{verb}", json=body)
    with ERR.status(f"{document_id}: {verb} …"):
        async for event, data in client.events(f"/v1/jobs/{job['id']}/events"):
            if event == "failed":
                raise click.ClickException(f"{document_id}: {verb} failed: {data['error']}")
            if event == "gone":
                raise click.ClickException(f"{document_id} was removed meanwhile.")
            if event == "done":
                ended: dict[str, Any] = data
                return ended
    raise click.ClickException(f"The gateway ended before {document_id} was moved; ask again when it is back.")


def _lines(document: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, words) of what there is to say, but for the tiers."""
    words = {"pinned": "pinned: its KV stays whatever else needs the room", "expired": "expired: answered cold, nothing is kept"}
    how_long = kept(document) or "while there is room"
    lines = [(name, _words(document[name])) for name in PLAIN]
    if document["stale"]:
        lines.append(("stale", "yes: another engine read it; it is read again in its turn, or by its next question"))
    lines.append(("kept", words.get(how_long, how_long) + (f" (ttl {document['ttl_s']:g} s)" if document["ttl_s"] else "")))
    lines.append(("tokens", f"{document['document_tokens']:,}, prefix {document['prefix_tokens']:,}"))
    lines += [
        (f"volume {one['number']}", f"{one['title']}: {one['state']}, {one['document_tokens']:,} tokens")
        for one in document["volumes"]
    ]
    if job := document["job"]:
        error = f": {job['error']}" if job["error"] else ""
        lines.append(("job", f"{job['state']}, {job['read_tokens']:,} of {job['prefix_tokens']:,} tokens{error} ({job['id']})"))
    if usage := document["usage"]:
        lines.append(("questions asked", f"{usage['questions']:,}" + _last(usage["last_asked_at"])))
        origins = (
            (usage["reused_tokens"], "reused"),
            (usage["restored_tokens"], "restored"),
            (usage["recomputed_tokens"], "recomputed"),
        )
        lines.append(("prompt tokens", f"{usage['prompt_tokens']:,}: " + ", ".join(f"{n:,} {word}" for n, word in origins)))
    lines += [(name[:-3], _moment(document[name])) for name in ("created_at", "updated_at")]
    return lines


def _table(tiers: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, justify in (("tier", "left"), ("where", "left"), ("share", "right"), ("size", "right")):
        table.add_column(column, justify="right" if justify == "right" else "left")
    for held in sorted(tiers, key=lambda held: (ORDER.index(held["tier"]), held["where"])):
        table.add_row(held["tier"], held["where"], f"{int(held['share'] * 100)} %", f"{held['size_bytes'] / 2**20:,.1f} MiB")
    return table


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(value) if isinstance(value, list) else str(value)


def _last(at: float | None) -> str:
    return f", last {_moment(at)}" if at is not None else ""


def _moment(at: float) -> str:
    return _minute(datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat())


def _minute(iso: str) -> str:
    return f"{iso[:16].replace('T', ' ')} UTC"
