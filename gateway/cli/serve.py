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
from rich.markup import escape

from backends.base import Store
from backends.extraction.extractor import Extractor
from backends.lmcache import kv_bytes_a_token
from backends.local.stack import LocalStack
from backends.settings import LocalEngine
from backends.tokenizer import load as load_tokenizer
from gateway.app import create_apps
from gateway.cli import key_file as key_files
from gateway.cli.desk import operator
from gateway.config import Config, database_url, exposed, limits_storage, load, secret_problems
from gateway.edge.hosts import is_loopback
from gateway.errors import Unauthorized
from gateway.logs import set_up_logging
from gateway.parts import open_parts
from gateway.server import GatewayServer, listen
from gateway.shelf import catalog_file
from gateway.strict_yaml import ConfigError
from gateway.tenants import limits_file
from gateway.tenants.audit import AuditLog
from gateway.tenants.authenticator import Authenticator
from gateway.tenants.keyring import Keyring, NewKey
from gateway.tiers.disk_keeper import GIB
from router.characters import escaped
from router.errors import KvshelfError
from router.prompts import derive

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

ConfigPath = click.Path(path_type=Path, dir_okay=False)
DEMO_SCOPES = ("ask", "read", "write", "share")


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
        ERR.print(f"[yellow]![/yellow] {escape(remark)}", soft_wrap=True)
    for problem in problems:
        ERR.print(f"[red]✗[/red] {escape(escaped(problem))}", soft_wrap=True)
    if problems:
        raise SystemExit(1)
    OUT.print(f"[green]✓[/green] {config_path}: nothing wrong.")


def _look_at(config: Config) -> tuple[list[str], list[str]]:
    """What is wrong, and what could be better."""
    problems: list[str] = []
    remarks: list[str] = []
    problems += secret_problems(config)
    if not is_loopback(config.server.host):
        remarks.append(
            f"`server.host` is {config.server.host}: others can reach it, and keys and documents travel as they are. Put something that "
            "speaks TLS in front (nginx, Caddy, a load balancer), and keep the port itself to it."
        )
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
            asyncio.run(catalog_file.load(config.catalog, Extractor(config.extraction)))
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
        stack = _stack(config, local)
        report = stack.check()
        problems += [*report.problems, *exposed(stack.key_path, "the disk tier's key")]
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
        on_event=lambda line: ERR.print(f"[dim]{escape(line)}[/dim]"),
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
        environment = config.keys.environment
        key = await demo_key(parts.store, parts.secret, key_file, environment=environment) if key_file is not None else None
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


async def demo_key(store: Store, secret: bytes, path: Path, *, environment: str = "live") -> str:
    """The key in `path`, made and stored there where there is none that still works.

    Raises ConfigError where others can read one that does.
    """
    kept, principal = "", None
    with suppress(FileNotFoundError):
        kept = await key_files.read(path)
    with suppress(Unauthorized):
        principal = await Authenticator(store, secret).recognise(f"Bearer {kept}")
    if principal is not None:
        if exposed(path, "it"):
            raise ConfigError(
                [
                    f"{path}: others can read the API key in it. Mend it with: chmod 600 {path}, or delete the file to have another "
                    f"key made; if anybody may have read it: kvshelf keys revoke CONFIG {principal.key_id}"
                ]
            )
        return kept
    audit = AuditLog(store, now=time.time)
    keyring = Keyring(store, audit, secret, environment=environment, now=time.time)
    key, _ = await keyring.create(operator(), NewKey(tenant="demo", name="demo", scopes=DEMO_SCOPES))
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
