"""What commands on the operator's machine work with: the gateway's database itself, with who works there for the audit log."""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import rich_click as click

from backends.base import Store
from backends.store.sql_store import SqlStore
from gateway import config
from gateway.strict_yaml import ConfigError
from gateway.tenants.audit import Actor, AuditLog
from gateway.tenants.keyring import Keyring
from router.errors import KvshelfError

T = TypeVar("T")
ConfigPath = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True)
class Desk:
    store: Store
    keyring: Keyring
    audit: AuditLog
    actor: Actor


def at_desk(config_path: Path, work: Callable[[Desk], Awaitable[T]]) -> T:
    """What `work` gives, with the database of this configuration. Raises ClickException for what goes wrong."""

    async def run() -> T:
        settings = config.load(config_path)
        secret = config.server_secret(settings)
        store = SqlStore(config.database_url(settings))
        await store.open()
        try:
            audit = AuditLog(store, now=time.time)
            keyring = Keyring(store, audit, secret, environment=settings.keys.environment, now=time.time)
            return await work(Desk(store, keyring, audit, operator()))
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except (ConfigError, KvshelfError) as error:
        raise click.ClickException(str(error)) from error


def operator() -> Actor:
    """Who runs this process. Not from the environment, which anybody can set."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return Actor(f"cli:{name}", "cli")
