"""`kvshelf audit`: who did what with keys and documents, from the gateway's database."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import msgspec
import rich_click as click
from rich.table import Table

from gateway.cli.desk import ConfigPath, at_desk
from gateway.cli.keys import MOMENT, seconds
from gateway.cli.terminal import Terminal

OUT = Terminal()


@click.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.option("--since", type=MOMENT, help="From then on (UTC where there is no offset).")
@click.option("--tenant", help="About this tenant's keys and documents.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def audit(config_path: Path, since: datetime.datetime | None, tenant: str | None, limit: int, as_json: bool) -> None:
    """Say who did what, of what, when and from where; the newest first."""
    found = at_desk(config_path, lambda desk: desk.audit.entries(limit=limit, since=seconds(since) or 0.0, tenant=tenant))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    table = Table()
    for column in ("when", "who", "from", "what", "of what", "tenant", "details"):
        table.add_column(column)
    for entry in found:
        at = datetime.datetime.fromtimestamp(entry.at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        details = json.dumps(entry.details) if entry.details else ""
        table.add_row(at, entry.actor, entry.origin, entry.action, entry.target, entry.tenant, details)
    OUT.print(table)
