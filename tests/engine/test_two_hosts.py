"""Two hosts, each with an LMCache server, a disk and a worker of its own, run by somebody else: one gateway before both.

Here both are this machine, which is what the gateway can't tell: it knows them by their addresses alone.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import pytest

from backends.local import commands, machine
from backends.local.commands import Command
from backends.local.process import EngineProcess
from backends.settings import LocalEngine
from gateway.sections import Engine, RemoteKVServer, RemoteWorker
from tests.engine.conftest import WORKER_PYTHON, RealGateway
from tests.engine.test_tiers import text
from tests.fakes.gateway import eventually

HOSTS = ("host-a", "host-b")
WORKER_OF = {"host-a": "worker-1", "host-b": "worker-2"}
MOST = 12
"""Documents that are read until each host has one: by chance all of them go to one host once in two thousand times."""


class TwoHosts(RealGateway):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.processes: dict[str, EngineProcess] = {}
        settings = [_settings(folder, number) for number in range(len(HOSTS))]
        shared = {"key_path": folder / "kv.key", "named_seals": True}
        self.commands = [command for number, one in enumerate(settings) for command in self._commands(number, one)]
        self.config = msgspec.structs.replace(
            self.config,
            engine=Engine(
                kv_servers=tuple(
                    RemoteKVServer(url=f"http://127.0.0.1:{one.lmcache_http_port}", name=name, disk_path=one.disk_path, **shared)
                    for name, one in zip(HOSTS, settings, strict=True)
                ),
                workers=tuple(
                    RemoteWorker(name=WORKER_OF[name], url=f"http://127.0.0.1:{one.worker_port + number}", host=name)
                    for number, (name, one) in enumerate(zip(HOSTS, settings, strict=True))
                ),
                kv_events=f"tcp://127.0.0.1:{settings[0].kv_events_port}",
                kv_server_events=f"127.0.0.1:{settings[0].kv_server_events_port}",
                check_interval_s=0.5,
            ),
        )

    async def start(self) -> None:
        running = AsyncExitStack()
        (self.folder / "kv.key").touch(0o600)  # the gateway refuses one that others can read
        (self.folder / "kv.key").write_bytes(bytes(range(32)))
        try:
            async with aiohttp.ClientSession() as session:
                for command in self.commands:
                    await self._run(command, running, session)
            await self.serve(running, None)
        except BaseException:
            await running.aclose()
            raise
        self._running = running

    async def _run(self, command: Command, running: AsyncExitStack, session: aiohttp.ClientSession) -> None:
        log = self.folder / f"{command.name}.log"
        process = await EngineProcess.start(command, log, self.folder, grace_s=15)
        running.push_async_callback(process.stop)
        self.processes[command.name] = process
        await process.until_ready(session, timeout_s=300, poll_s=0.25)

    def _commands(self, number: int, settings: LocalEngine) -> tuple[Command, Command]:
        server = commands.lmcache_server(settings, chunk_tokens=256, key_path=self.folder / "kv.key", environment=os.environ)
        settings.disk_path.mkdir()
        name = HOSTS[number]
        named = tuple(
            name if before == "--instance-id" else part for before, part in zip(("", *server.argv), server.argv, strict=False)
        )
        worker = commands.worker(settings, self.config.model, number + 1, cores=machine.cores(), environment=os.environ)
        return msgspec.structs.replace(server, name=name, argv=named), worker

    async def held(self, document_id: str) -> dict[str, set[str]]:
        """Where a client is told that all of the document is, by tier."""
        _, document = await self.get(f"/v1/documents/{document_id}")
        found: dict[str, set[str]] = {}
        for one in document["tiers"]:
            if one["share"] == 1:
                found.setdefault(one["tier"], set()).add(one["where"])
        return found

    async def stored(self, document_id: str) -> dict[str, int]:
        """How many of the document's chunks lie on each host's disk, as files."""
        (salt,) = [d.current.salt for d in await self.store.documents() if d.id == document_id and d.current is not None]
        return {name: len(list((self.folder / name).glob(f"*@{salt}.data"))) for name in HOSTS}


def _settings(folder: Path, number: int) -> LocalEngine:
    return LocalEngine(
        python=WORKER_PYTHON,
        disk_path=folder / HOSTS[number],
        workers=2,  # over both hosts: they share the processors
        worker_port=18101,
        lmcache_port=15555 + 10 * number,
        lmcache_http_port=18180 + 10 * number,
        kv_events_port=15557,
        kv_server_events_port=15558,
        kv_space_gib=0.4,
        ram_gib=1,
    )


@pytest.fixture(scope="module")
async def two_hosts(tmp_path_factory: pytest.TempPathFactory, engines: list[RealGateway]) -> AsyncIterator[TwoHosts]:
    for other in engines:
        await other.stop()
    gateway = TwoHosts(tmp_path_factory.mktemp("two"))
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


async def test_each_document_is_read_asked_and_kept_on_its_host(two_hosts: TwoHosts) -> None:
    home: dict[str, str] = {}
    while len(set(home.values())) < 2 and len(home) < MOST:
        name = f"note-{len(home)}"
        document = await two_hosts.read(name, text(name, 24))
        chunks = document["prefix_tokens"] // 256
        (home[name],) = (await two_hosts.held(name))["disk"]
        assert await two_hosts.stored(name) == {host: chunks if host == home[name] else 0 for host in HOSTS}

        async def is_whole(name: str = name, host: str = home[name]) -> bool:
            return await two_hosts.held(name) == {"gpu": {WORKER_OF[host]}, "ram": {host}, "disk": {host}}

        await eventually(is_whole, within_s=5)
    assert set(home.values()) == set(HOSTS)
    for name, host in home.items():
        answer = await two_hosts.ask("What is part 1?", document=name)
        assert (answer["worker"], answer["cache-tier"]) == (WORKER_OF[host], "gpu")
        assert answer["cached_tokens"] >= 768

    # Evicted from RAM it comes back from its own disk; the other host is left as it is.
    name, host = next(iter(home.items()))
    (other,) = set(HOSTS) - {host}
    await two_hosts.move(name, "evict", tier="ram")
    assert (await two_hosts.held(name))["disk"] == {host}
    assert "ram" not in await two_hosts.held(name)

    async def in_ram_of(*hosts: str) -> None:
        """The KV servers tell of their RAM up to 1.3 s late."""

        async def told() -> bool:
            return (await two_hosts.held(name)).get("ram") == set(hosts)

        await eventually(told, within_s=5)

    await two_hosts.move(name, "warm", tier="ram")
    await in_ram_of(host)
    await two_hosts.move(name, "warm", tier="ram", host=other)  # which has nothing of it, and reads it
    await in_ram_of(host, other)
    assert len(set((await two_hosts.stored(name)).values())) == 1


async def test_where_a_hosts_worker_is_gone_the_other_host_answers(two_hosts: TwoHosts) -> None:
    document = await two_hosts.read("alone", text("alone", 24))
    (host,) = (await two_hosts.held("alone"))["disk"]
    (other,) = set(HOSTS) - {host}
    await two_hosts.processes[WORKER_OF[host]].stop()
    answer = await two_hosts.ask("What is part 1?", document="alone")
    assert (answer["worker"], answer["cache-tier"]) == (WORKER_OF[other], "none")
    again = await two_hosts.ask("What is part 2?", document="alone")
    assert (again["worker"], again["cache-tier"], again["cached_tokens"]) == (WORKER_OF[other], "gpu", document["prefix_tokens"])

    async def is_kept_there() -> bool:
        return (await two_hosts.held("alone"))["disk"] == {host, other}

    await eventually(is_kept_there, within_s=15)
