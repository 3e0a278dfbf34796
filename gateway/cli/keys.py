"""`kvshelf keys`: made, listed, changed, rotated and revoked in the gateway's database; a running gateway follows within a second.

Works without a gateway, so that the first key with the scope `admin` can be made.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.table import Table

from gateway.cli.desk import ConfigPath, at_desk
from gateway.cli.terminal import Terminal
from gateway.tenants.key_views import KeyView, NewKeyView, new_view, view
from gateway.tenants.keyring import KeyChanges, NewKey
from gateway.tenants.keys import SCOPES, USUAL_SCOPES
from router.limits import Rates
from router.retention import MAX_TTL_S

OUT = Terminal()

MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])
SCOPE = click.Choice(SCOPES)


def _limits(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a key's limits, named as they are in `Rates`."""
    for option in reversed(
        (
            click.option(
                "--requests-per-minute", type=click.IntRange(min=0), help="Of all of /v1. The tenant's own limits hold besides."
            ),
            click.option("--streams", type=click.IntRange(min=0), help="Questions under way at once."),
            click.option(
                "--tokens-per-minute", type=click.IntRange(min=0), help="Computed: prompts without what is cached, and answers."
            ),
            click.option("--token-budget", type=click.IntRange(min=0), help="Tokens a day or month, those of readings too."),
            click.option("--budget-period", type=click.Choice(["day", "month"]), help="Of the budget; by default a day."),
        )
    ):
        command = option(command)
    return command


def _rates(given: dict[str, Any]) -> Rates:
    if given["budget_period"] is not None and given["token_budget"] is None:
        raise click.UsageError("--budget-period is nothing without --token-budget.")
    return msgspec.convert(given, Rates)


@click.group()
def keys() -> None:
    """Create, list, change, rotate and revoke tenants' API keys."""


@keys.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.argument("tenant")
@click.option("--name", default="", help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, type=SCOPE, default=USUAL_SCOPES, show_default=True)
@click.option("--env", "environment", help="What the key begins with (`test`: kvs_test_…); by default the configuration's.")
@click.option("--expire-at", type=MOMENT, help="The key is good until then (UTC where there is no offset).")
@click.option("--document", "documents", multiple=True, metavar="ID", help="Narrow the key to this document, and others so given.")
@click.option("--tag", "tags", multiple=True, help="Narrow the key to documents with this tag, and others so given.")
@_limits
@click.option("--json", "as_json", is_flag=True)
def create(config_path: Path, expire_at: datetime.datetime | None, as_json: bool, **fields: Any) -> None:
    """Make a key for TENANT (who need not exist before). It is shown this once."""
    limits = _rates({name: fields.pop(name) for name in Rates.__struct_fields__})
    new = NewKey(expires_at=seconds(expire_at), limits=limits, **fields)
    made = at_desk(config_path, lambda desk: desk.keyring.create(desk.actor, new))
    _show_new(*made, as_json=as_json)


@keys.command("list")
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.option("--tenant", help="This tenant's only.")
@click.option("--json", "as_json", is_flag=True)
def list_keys(config_path: Path, tenant: str | None, as_json: bool) -> None:
    """List all keys, expired and revoked ones too. The keys themselves are kept nowhere."""
    now = datetime.datetime.now(datetime.UTC).timestamp()
    found = [view(key, now) for key in at_desk(config_path, lambda desk: desk.keyring.all(tenant))]
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    table = Table()
    table.add_column("id", no_wrap=True)  # what the other commands need
    for column in ("tenant", "name", "scopes", "sees", "limits", "created", "used", "state"):
        table.add_column(column)
    for key in found:
        sees = " ".join([*key.documents, *(f"#{tag}" for tag in key.tags)]) or "all"
        scopes = " ".join(key.scopes)
        limits = " ".join(f"{name.replace('_', '-')}={value}" for name, value in msgspec.to_builtins(key.limits).items())
        days = _day(key.created_at), _day(key.last_used_at)
        table.add_row(key.id, key.tenant, key.name, scopes, sees, limits, *days, _state(key))
    OUT.print(table)


@keys.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.argument("key_id", metavar="ID")
@click.option("--name", help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, type=SCOPE, help="All the scopes that it is to have.")
@click.option("--expire-at", type=MOMENT, help="The key is good until then (UTC where there is no offset).")
@click.option("--no-expiry", is_flag=True, help="The key is good until it is revoked.")
@click.option("--document", "documents", multiple=True, metavar="ID", help="All the documents that it is to be narrowed to.")
@click.option("--tag", "tags", multiple=True, help="All the tags that it is to be narrowed to.")
@click.option("--all-documents", is_flag=True, help="Narrow it no longer.")
def change(
    config_path: Path,
    key_id: str,
    name: str | None,
    scopes: tuple[str, ...],
    expire_at: datetime.datetime | None,
    no_expiry: bool,
    documents: tuple[str, ...],
    tags: tuple[str, ...],
    all_documents: bool,
) -> None:
    """Change name, scopes, expiry or allow-lists of the key of this id (see `list`). What is not given stays."""
    if all_documents and (documents or tags):
        raise click.UsageError("--all-documents goes with neither --document nor --tag.")
    if no_expiry and expire_at is not None:
        raise click.UsageError("Give --expire-at or --no-expiry.")
    given: dict[str, Any] = {"name": name, "scopes": scopes or None, "documents": documents or None, "tags": tags or None}
    given = {field: value for field, value in given.items() if value is not None}
    if all_documents:
        given |= {"documents": (), "tags": ()}
    if no_expiry or expire_at is not None:
        given["expires_at"] = seconds(expire_at)
    at_desk(config_path, lambda desk: desk.keyring.change(desk.actor, key_id, KeyChanges(**given)))
    OUT.print(f"{key_id}: changed")


@keys.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.argument("key_id", metavar="ID")
@click.option(
    "--keep", "keep_s", type=click.FloatRange(0, MAX_TTL_S), metavar="SECONDS", help="How long the old secret stays good."
)
@click.option("--finish", is_flag=True, help="No new secret: end the old one.")
@click.option("--json", "as_json", is_flag=True)
def rotate(config_path: Path, key_id: str, keep_s: float | None, finish: bool, as_json: bool) -> None:
    """Give the key of this id a new secret, shown this once. The old one stays good for SECONDS, or until --finish."""
    if finish:
        if keep_s is not None:
            raise click.UsageError("--keep goes with a new secret, --finish ends the old one.")
        at_desk(config_path, lambda desk: desk.keyring.finish(desk.actor, key_id))
        OUT.print(f"{key_id}: the old secret is good no longer")
        return
    made = at_desk(config_path, lambda desk: desk.keyring.rotate(desk.actor, key_id, keep_s=keep_s))
    _show_new(*made, as_json=as_json)


@keys.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.argument("key_id", metavar="ID")
def revoke(config_path: Path, key_id: str) -> None:
    """Revoke the key of this id (see `list`), for good."""
    at_desk(config_path, lambda desk: desk.keyring.revoke(desk.actor, key_id))
    OUT.print(f"{key_id}: revoked")


def _show_new(key: str, record: Any, *, as_json: bool) -> None:
    made: NewKeyView = new_view(key, record, record.created_at)
    click.echo(msgspec.json.encode(made).decode() if as_json else key)


def seconds(moment: datetime.datetime | None) -> float | None:
    if moment is None:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _state(key: KeyView) -> str:
    if key.state == "revoked":
        return f"revoked {_day(key.revoked_at)}"
    until = f" until {key.expire_at:%Y-%m-%d %H:%M}" if key.expire_at is not None else ""
    return key.state + until + (", two secrets" if key.secrets > 1 else "")


def _day(at: float | None) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M") if at else ""
