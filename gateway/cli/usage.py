"""`kvshelf usage`: what tenants used, from the gateway's database; a running gateway adds to it every few seconds."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import rich_click as click
from rich import box
from rich.table import Table

from gateway.cli.desk import ConfigPath, at_desk
from gateway.cli.terminal import Terminal
from gateway.tenants.usage_report import MOST, as_csv, checked, plain, wanted
from router.errors import InvalidRequest
from router.usage import BY, COUNTS

OUT = Terminal()


@click.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.option("--from", "since", metavar="DAY", help="The first day (UTC), as 2026-11-01. By default 30 days are told of.")
@click.option("--to", "until", metavar="DAY", help="The last day. By default today.")
@click.option("--tenant", help="Of this tenant alone.")
@click.option("--by", default="tenant,day", show_default=True, help=f"What to add up by: some of {', '.join(BY)}.")
@click.option("--csv", "is_csv", is_flag=True)
@click.option("--json", "is_json", is_flag=True)
def usage(
    config_path: Path, since: str | None, until: str | None, tenant: str | None, by: str, is_csv: bool, is_json: bool
) -> None:
    """Show what tenants asked, and what it took."""
    try:
        asked = wanted(since, until, by, today=datetime.datetime.now(datetime.UTC).date().isoformat())
        rows = at_desk(
            config_path,
            lambda desk: desk.store.usage(since=asked.since, until=asked.until, tenant=tenant, by=asked.by, most=MOST + 1),
        )
        checked(rows)
    except InvalidRequest as error:
        raise click.ClickException(str(error)) from error
    if is_csv:
        click.echo(as_csv(rows, asked.by), nl=False)
        return
    if is_json:
        click.echo(json.dumps(plain(rows, asked.by)))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in asked.by:
        table.add_column(name)
    for name in COUNTS:
        table.add_column(name.replace("_tokens", "").replace("saved_s", "saved, s"), justify="right")
    for row in plain(rows, asked.by):
        table.add_row(*(str(row[name]) for name in asked.by), *(f"{row[name]:,}" for name in COUNTS))
    OUT.print(table)
