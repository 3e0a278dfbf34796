"""`kvshelf up`, `serve` and `check`: the gateway with an engine on this machine, without one, and not at all."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import rich_click as click
import uvloop
from rich.console import Console

from backends.base import Store
from backends.lmcache import kv_bytes_a_token
from backends.local.stack import LocalStack
from backends.settings import LocalEngine
from backends.tokenizer import load as load_tokenizer
from gateway.app import create_apps
from gateway.cli import key_file as key_files
from gateway.config import Config, database_url, limits_storage, load, secret_problems
from gateway.parts import open_parts
from gateway.server import GatewayServer, listen, set_up_logging
from gateway.shelf import catalog_file
from gateway.strict_yaml import ConfigError
from gateway.tenants import keys, limits_file
from gateway.tenants.authenticator import Authenticator
from gateway.tiers.disk_keeper import GIB
from router.documents import TenantId
from router.errors import KvshelfError
from router.prompts import derive

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

ConfigPath = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
def serve(config_path: Path) -> None:
    """Run the gateway for engines that run elsewhere (`engine.workers` in CONFIG).

    Catalog, keys and health are served also while no worker is up.
    """
    config = _load(config_path)
    if config.engine.local is not None:
        raise click.ClickException(f"{config_path} has an engine on this machine (`engine.local`): start it with `kvshelf up`.")
    _run(config, None)


@click.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
@click.option("--key-file", type=ConfigPath, help="Make a key for the tenant `demo` here, unless there is one.")
def up(config_path: Path, key_file: Path | None) -> None:
    """Start the engine on this machine and the gateway, and keep them running until Ctrl-C."""
    config = _load(config_path)
    if config.engine.local is None:
        raise click.ClickException(f"{config_path} has no `engine.local`; `kvshelf serve` runs a gateway for engines elsewhere.")
    _run(config, _stack(config, config.engine.local), key_file)


@click.command()
@click.argument("config_path", metavar="CONFIG", type=ConfigPath)
def check(config_path: Path) -> None:
    """Say everything that is wrong with CONFIG, its catalog, its model and (for `kvshelf up`) this machine.

    What could be better is said as well, and is no failure.
    """
    problems: list[str] = []
    remarks: list[str] = []
    try:
        config = load(config_path)
    except ConfigError as error:
        problems += error.problems
    else:
        problems, remarks = _look_at(config)
    for remark in remarks:
        ERR.print(f"[yellow]![/yellow] {remark}", soft_wrap=True)
    for problem in problems:
        ERR.print(f"[red]✗[/red] {problem}", soft_wrap=True)
    if problems:
        raise SystemExit(1)
    OUT.print(f"[green]✓[/green] {config_path}: nothing wrong.")


def _look_at(config: Config) -> tuple[list[str], list[str]]:
    """What is wrong, and what could be better."""
    problems: list[str] = []
    remarks: list[str] = []
    problems += secret_problems(config)
    for url in (database_url, limits_storage):
        try:
            url(config)
        except ConfigError as error:
            problems += error.problems
    try:
        derive(load_tokenizer(config.model.path), config.engine.chunk_tokens)
    except KvshelfError as error:
        problems.append(str(error))
    if config.catalog is not None:
        try:
            catalog_file.load(config.catalog)
        except ConfigError as error:
            problems += error.problems
    if config.tenants is not None:
        try:
            limits_file.load(config.tenants)
        except ConfigError as error:
            problems += error.problems
    problems += _disk_problems(config)
    local = config.engine.local
    if local is not None:
        report = _stack(config, local).check()
        problems += report.problems
        remarks += report.remarks
        if not local.encrypted:
            remarks.append(
                "`engine.local.encrypted` is false: the disk tier is stored plain, and a damaged file would give wrong answers. "
                "Leave it out, unless the file system has checksums of its own."
            )
    remarks += [
        f"The KV server {server.name} has a `disk_path` and no `key_path`, so its files are taken for plain ones: no damage shows in "
        "them, and those of a server that encrypts would all look damaged, and be deleted. Give the key if it does."
        for server in config.engine.kv_servers
        if server.disk_path is not None and server.key_path is None
    ]
    return problems, remarks


def _disk_problems(config: Config) -> Iterator[str]:
    """A budget that the longest document does not fit in."""
    a_token = kv_bytes_a_token(config.model.path, config.model.dtype)
    if config.disk.budget_gib is None or a_token is None:
        return
    tokens = config.model.context_tokens
    longest_gib = tokens * a_token / GIB
    if config.disk.budget_gib < longest_gib:
        yield (
            f"`disk.budget_gib` is {config.disk.budget_gib:g}, but one document as long as `model.context_tokens` allows "
            f"({tokens:,} tokens of {a_token:,} bytes) takes {longest_gib:.2f} GiB. Raise the budget to {_rounded_up(longest_gib)} "
            f"at least, or leave it out to use all but `disk.min_free_gib`."
        )


def _rounded_up(gib: float) -> str:
    return f"{math.ceil(gib * 10) / 10:g}"


def _stack(config: Config, settings: LocalEngine) -> LocalStack:
    return LocalStack(
        settings,
        config.model,
        chunk_tokens=config.engine.chunk_tokens,
        data_path=config.data_path,
        on_event=lambda line: ERR.print(f"[dim]{line}[/dim]"),
    )


def _load(path: Path) -> Config:
    try:
        return load(path)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def _run(config: Config, stack: LocalStack | None, key_file: Path | None = None) -> None:
    set_up_logging(config.telemetry.log_level)
    try:
        uvloop.run(_serve(config, stack, key_file))
    except (ConfigError, KvshelfError) as error:
        raise click.ClickException(str(error)) from error


async def _serve(config: Config, stack: LocalStack | None, key_file: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as cleanup:
        for_tenants = cleanup.enter_context(listen(config.server.host, config.server.port))
        for_operators = cleanup.enter_context(listen(config.admin.host, config.admin.port, setting="admin.port"))
        if stack is not None:
            cleanup.push_async_callback(stack.stop)
            if not await _unless(stop, stack.start()):
                return
        parts = await cleanup.enter_async_context(open_parts(config, stack))
        # Before the first request can be made: whoever waits for the gateway finds the key there.
        key = await demo_key(parts.store, parts.secret, key_file) if key_file is not None else None
        apps = create_apps(config, parts)
        server, admin = GatewayServer(apps.tenants), GatewayServer(apps.operators)
        serving = asyncio.ensure_future(server.serve(sockets=[for_tenants]))
        administering = asyncio.ensure_future(admin.serve(sockets=[for_operators]))
        if await _unless(stop, _first(serving, server.ready.wait())) and server.started:
            _banner(config, key)
            await _unless(stop, _first(serving))
        server.should_exit = admin.should_exit = True
        await asyncio.gather(serving, administering)
        if not server.started and not stop.is_set():
            raise KvshelfError("The gateway could not start; its log above says why.")


async def _first(*work: Awaitable[object]) -> None:
    """Return when the first of them has; the others are given up, but for tasks, which go on."""
    tasks = [asyncio.ensure_future(one) for one in work]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task, one in zip(tasks, work, strict=True):
        if task is not one:
            task.cancel()


async def _unless(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Await `work`, or give it up when `stop` is set; False in that case."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return False
    await working
    return True


async def demo_key(store: Store, secret: bytes, path: Path) -> str:
    """The key in `path`, made and stored there where there is none that still works."""
    kept = ""
    with suppress(FileNotFoundError):
        kept = await key_files.read(path)
    with suppress(KvshelfError):
        await Authenticator(store, secret).recognise(f"Bearer {kept}")
        return kept
    key, record = keys.new_key(secret, TenantId("demo"), name="demo", scopes=keys.SCOPES[:3], now=time.time())
    await store.add_key(record)
    await key_files.write(path, key)
    return key


def _banner(config: Config, key: str | None) -> None:
    url = f"http://{config.server.host}:{config.server.port}"
    OUT.print(f"\n[bold]kvshelf[/bold] serves {config.model.name} at [bold]{url}[/bold]  (Ctrl-C ends it)")
    OUT.print(f"  for operators: http://{config.admin.host}:{config.admin.port} (metrics, health, keys, usage)")
    if key is not None:
        body = (
            '{"messages": [{"role": "user", "content": "How much is the security deposit?"}], "max_tokens": 40, "temperature": 0}'
        )
        OUT.print(
            f"\n  a key:   {key}\n\n  try it:  curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' -d '{body}'\n",
            soft_wrap=True,
        )
    sys.stdout.flush()
