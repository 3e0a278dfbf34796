"""`kvshelf keys`: made, listed and revoked in the gateway's database; a running gateway follows within a second."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import rich_click as click
from rich.console import Console
from rich.table import Table

from backends.base import Store
from backends.store.sql_store import SqlStore
from gateway import config
from gateway.strict_yaml import ConfigError
from gateway.tenants.keys import SCOPES, new_key
from router.documents import TenantId, check_id
from router.errors import KvshelfError
from router.limits import Rates

OUT = Console(highlight=False, markup=False, emoji=False)  # names are shown as they are

T = TypeVar("T")
ConfigPath = click.Path(path_type=Path, dir_okay=False)


@click.group()
def keys() -> None:
    """Create, list and revoke tenants' API keys."""


@keys.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.argument("tenant")
@click.option("--name", default="", help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), default=SCOPES[:2], show_default=True)
@click.option("--requests-per-minute", type=click.IntRange(min=0), help="Of all of /v1. The tenant's own limits hold besides.")
@click.option("--streams", type=click.IntRange(min=0), help="Questions under way at once.")
@click.option("--tokens-per-minute", type=click.IntRange(min=0), help="Computed ones: prompts without what is cached, and answers.")
@click.option("--token-budget", type=click.IntRange(min=0), help="Tokens a day or month.")
@click.option("--budget-period", type=click.Choice(["day", "month"]), help="Of the budget; a day where nothing is said.")
@click.option("--json", "as_json", is_flag=True)
def create(
    config_path: Path,
    tenant: str,
    name: str,
    scopes: tuple[str, ...],
    as_json: bool,
    **limits: int | Literal["day", "month"] | None,
) -> None:
    """Make a key for TENANT (who need not exist before). It is shown this once."""
    if limits["budget_period"] is not None and limits["token_budget"] is None:
        raise click.UsageError("--budget-period is nothing without --token-budget.")
    rates = msgspec.convert(limits, Rates)

    async def make(store: Store, secret: bytes) -> tuple[str, str]:
        owner = TenantId(check_id(tenant, what="tenant"))
        key, record = new_key(secret, owner, name=name, scopes=scopes, now=time.time(), limits=rates)
        await store.add_key(record)
        return key, record.public_id

    key, public_id = _with_store(config_path, make)
    if as_json:
        click.echo(json.dumps({"key": key, "id": public_id, "tenant": tenant, "scopes": scopes}))
    else:
        click.echo(key)


@keys.command("list")
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.option("--json", "as_json", is_flag=True)
def list_keys(config_path: Path, as_json: bool) -> None:
    """List all keys, revoked ones too. The keys themselves are kept nowhere."""
    found = _with_store(config_path, lambda store, _: store.keys())
    if as_json:
        click.echo(json.dumps([{k: v for k, v in msgspec.to_builtins(key).items() if k != "secret_hash"} for key in found]))
        return
    table = Table()
    table.add_column("id", no_wrap=True)  # what `revoke` needs
    for column in ("tenant", "name", "scopes", "limits", "created", "revoked"):
        table.add_column(column)
    for key in found:
        limits = " ".join(f"{name.replace('_', '-')}={value}" for name, value in msgspec.to_builtins(key.limits).items())
        table.add_row(key.public_id, key.tenant, key.name, " ".join(key.scopes), limits, _day(key.created_at), _day(key.revoked_at))
    OUT.print(table)


@keys.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.argument("key_id", metavar="ID")
def revoke(config_path: Path, key_id: str) -> None:
    """Revoke the key of this id (see `list`)."""
    if not _with_store(config_path, lambda store, _: store.revoke_key(key_id, time.time())):
        raise click.ClickException(f"There is no key {key_id}.")
    OUT.print(f"{key_id}: revoked")


def _with_store(config_path: Path, work: Callable[[Store, bytes], Awaitable[T]]) -> T:
    async def run() -> T:
        settings = config.load(config_path)
        secret = config.server_secret(settings)
        store = SqlStore(config.database_url(settings))
        await store.open()
        try:
            return await work(store, secret)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except (ConfigError, KvshelfError) as error:
        raise click.ClickException(str(error)) from error


def _day(at: float | None) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M") if at else ""
