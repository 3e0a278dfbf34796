"""Two hosts, each with a KV server and a worker of its own: who answers what, what is cleared where, and one of them away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway import config
from gateway.strict_yaml import ConfigError
from tests.fakes.gateway import eventually
from tests.gateway.tiers import SIZE, TieredGateway, TrueHost, budget, text

QUESTION = "What is it about?"
BASE = "data_path: data\nmodel: {name: m, path: /models/m, context_tokens: 8192}\nengine:\n"
LEFT, RIGHT = "{name: left, url: 'http://l:1'}", "{name: right, url: 'http://r:1'}"


def gateway(folder: Path, **more: Any) -> TieredGateway:
    return TieredGateway(folder, hosts=[TrueHost("left"), TrueHost("right")], workers=2, **more)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[TieredGateway]:
    async with gateway(tmp_path).running() as found:
        yield found


def on(running: TieredGateway, document: str) -> list[str]:
    """The hosts on whose disks something of it lies."""
    return [host.name for host in running.hosts if running.salt(document) in host.disk]


async def spread(running: TieredGateway, each: int) -> str:
    """Documents until each host has so many of them to read: chance says which takes one. Their names."""
    names, read = "", dict.fromkeys((host.name for host in running.hosts), 0)
    for name in "abcdefghijklmnopqrstuvwxyz":
        if min(read.values()) >= each:
            break
        await running.add(text(name), id=name)
        read[on(running, name)[0]] += 1
        names += name
    return names


def host_of(running: TieredGateway, worker: str) -> str:
    return next(each.host.name for each in running.workers if each.name == worker)


def copy(running: TieredGateway, document: str) -> None:
    """Have it on both disks and in RAM of both."""
    salt = running.salt(document)
    everywhere = {chunk for host in running.hosts for chunk in host.disk.get(salt, ())}
    for host in running.hosts:
        for chunk in everywhere:
            host.store(salt, chunk)


def held(running: TieredGateway, salt: str) -> list[str]:
    return [host.name for host in running.hosts if salt in host.disk or salt in host.ram]


async def test_a_document_is_asked_where_it_was_read(running: TieredGateway) -> None:
    names = await spread(running, 2)
    places = {name: on(running, name) for name in names}
    assert {len(hosts) for hosts in places.values()} == {1}
    assert {hosts[0] for hosts in places.values()} == {"left", "right"}
    running.cool()
    for name in names:
        answer = (await running.ask(QUESTION, document=name))["headers"]
        assert host_of(running, answer["x-worker"]) == places[name][0]
        assert answer["x-cache-tier"] == "disk"
    assert {name: on(running, name) for name in names} == places


@pytest.mark.parametrize("change", ["deleted", "replaced"])
async def test_what_a_document_had_is_cleared_on_both(running: TieredGateway, change: str) -> None:
    await running.add(text("a"), id="a")
    await running.add(text("b"), id="b")
    copy(running, "a")
    salt = running.salt("a")
    if change == "deleted":
        await running.json("DELETE", "/v1/documents/a")
    else:
        await running.add(text("a") + " And more of it.", id="a")
    await eventually(lambda: held(running, salt) == [])
    assert held(running, running.salt("b"))
    if change == "replaced":
        assert held(running, running.salt("a"))


async def test_what_could_not_be_cleared_on_one_is_cleared_later(running: TieredGateway) -> None:
    await running.add(text("a"), id="a")
    copy(running, "a")
    salt = running.salt("a")
    right = running.kv_servers[1]
    right.problem = "is away"
    await running.json("DELETE", "/v1/documents/a")
    await eventually(lambda: held(running, salt) == ["right"])
    right.problem = None
    await running.add(text("b"), id="b")  # whatever changes leads to another look
    await eventually(lambda: held(running, salt) == [])


async def test_each_disk_has_a_budget_of_its_own(tmp_path: Path) -> None:
    async with gateway(tmp_path, disk=budget(2)).running() as running:
        await spread(running, 3)
        assert all(host.peak_bytes == host.disk_bytes == 2 * SIZE for host in running.hosts if isinstance(host, TrueHost))
        assert len(running.on_disk()) == 4


async def test_one_kv_server_away_is_said_and_the_other_host_goes_on(running: TieredGateway) -> None:
    names = await spread(running, 1)
    running.kv_servers[0].problem = "is away"

    async def said() -> bool:
        report = await running.health()
        return bool(report["status"] == "degraded" and report["problems"] == {"kv server left": "is away"})

    await eventually(said)
    for name in names:
        assert (await running.ask(QUESTION, document=name))["choices"]
    await running.add(text("z"), id="z")
    assert on(running, "z") == ["right"]
    running.kv_servers[0].problem = None

    async def well() -> bool:
        return bool((await running.health())["status"] == "ready")

    await eventually(well)


# --- the configuration


def load(folder: Path, engine: str) -> config.Engine:
    path = folder / "kvshelf.yaml"
    path.write_text(BASE + engine)
    return config.load(path).engine


def workers(*hosts: str) -> str:
    of = [
        f"  - {{name: w{number}, url: 'http://w:{number}'{f', host: {host}' if host else ''}}}\n"
        for number, host in enumerate(hosts)
    ]
    return "  workers:\n" + "".join(of)


def test_workers_name_their_kv_server(tmp_path: Path) -> None:
    engine = load(tmp_path, workers("left", "right", "left") + f"  kv_servers: [{LEFT}, {RIGHT}]\n")
    assert engine.hosts == {"w0": "left", "w1": "right", "w2": "left"}
    assert load(tmp_path, workers("", "") + f"  kv_servers: [{LEFT}]\n").hosts == {"w0": "left", "w1": "left"}
    assert load(tmp_path, workers("")).hosts == {}


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (workers("up") + f"  kv_servers: [{LEFT}]\n", "worker w0: `host` is up, which none of `kv_servers` is called"),
        (workers("left"), "worker w0: `host` is left, which none of `kv_servers` is called"),
        (workers("left", "") + f"  kv_servers: [{LEFT}, {RIGHT}]\n", "worker w1: `host` must say which of the KV servers"),
        (workers("left") + f"  kv_servers: [{LEFT}, {LEFT}]\n", "each of `kv_servers` needs a `name` of its own"),
        (
            workers("left").replace("workers:\n", "workers:\n  - {name: w0, url: 'http://x:1'}\n"),
            "each of `workers` needs a `name`",
        ),
    ],
)
def test_hosts_that_cannot_be_are_refused(tmp_path: Path, engine: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, engine)
