"""The KV servers by name, and the ledger's belief of their disks while these change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gateway.tiers.hosts import Hosts
from router.documents import Salt
from router.residency import Ledger
from tests.fakes.engine import FakeHost, FakeKVServer
from tests.gateway.cellar import CHUNKS, SIZE, Cellar, ids_of


class BlindServer(FakeKVServer):
    sees_disk = False


@pytest.fixture
def cellar() -> Iterator[Cellar]:
    cellar = Cellar()
    yield cellar
    cellar.ledger.check()
    cellar.telemetry.close()


async def test_servers_are_found_by_name_and_checked(cellar: Cellar) -> None:
    hosts = cellar.hosts
    assert [server.name for server in hosts] == ["a", "b"]
    assert len(hosts) == 2
    assert (hosts.get("b"), hosts.get("c"), hosts.get(None)) == (cellar.servers["b"], None, None)
    cellar.servers["b"].problem = "is down"
    await hosts.check()
    assert hosts.problems == {"b": "is down"}
    assert repr(hosts) == "<Hosts {'a': 'healthy', 'b': 'is down'}>"
    cellar.servers["b"].problem = None
    await hosts.check()
    assert hosts.problems == {}


async def test_a_scan_tells_the_ledger_what_lies_there_and_what_does_not(cellar: Cellar) -> None:
    version, gone = cellar.add("a", on="ab"), cellar.add("b", on="a")
    cellar.fakes["a"].disk.pop(gone.salt)
    cellar.fakes["a"].disk["nobodys"] = {(1, 2)}
    scans = await cellar.hosts.scan()
    assert set(scans["a"].chunks) == {version.salt, "nobodys"}
    assert dict(cellar.ledger.disk("a").salts) == {version.salt: SIZE, "nobodys": 1000}
    assert cellar.ledger.disk_share(version, "b") == 1


async def test_a_scan_of_what_can_not_be_read_changes_nothing(cellar: Cellar) -> None:
    version = cellar.add("a", on="ab")
    cellar.servers["a"].broken = OSError("the folder is gone")
    assert set(await cellar.hosts.scan()) == {"b"}
    assert cellar.ledger.disk_share(version, "a") == 1
    blind = Hosts([BlindServer(FakeHost())], Ledger())
    assert await blind.scan() == {}


async def test_what_is_written_while_a_scan_is_under_way_is_not_forgotten(cellar: Cellar) -> None:
    cellar.servers["a"].hold()
    scanning = asyncio.create_task(cellar.hosts.scan())
    await cellar.servers["a"].held.wait()
    version = cellar.add("a", on="a")
    cellar.servers["a"].may.set()
    await scanning
    assert cellar.ledger.disk_share(version, "a") == 1
    assert cellar.ledger.disk("a").total_bytes == SIZE


async def test_what_is_deleted_while_a_scan_is_under_way_is_not_believed_to_be_there(cellar: Cellar) -> None:
    version = cellar.add("a", on="a")
    cellar.servers["a"].hold()
    scanning = asyncio.create_task(cellar.hosts.scan())
    await cellar.servers["a"].held.wait()
    await FakeKVServer.delete(cellar.servers["a"], cellar.ledger.keys(version.salt), version.salt)
    cellar.ledger.forget(version)
    cellar.servers["a"].may.set()
    await scanning
    assert dict(cellar.ledger.disk("a").salts) == {}
    await cellar.hosts.scan()
    assert dict(cellar.ledger.disk("a").salts) == {}


async def test_a_version_is_looked_at_on_every_host(cellar: Cellar) -> None:
    version = cellar.add("a")
    for host, chunks in (("a", CHUNKS), ("b", 1)):
        cellar.write(version, host, chunks=chunks)
        cellar.ledger.disk(host).forget(version.salt)
    await cellar.hosts.look(version, ids_of(version))
    assert cellar.ledger.disk_share(version, "a") == 1
    assert cellar.ledger.disk_share(version, "b") == pytest.approx(1 / CHUNKS)
    assert await cellar.hosts.stored(version, ids_of(version), "a")
    assert not await cellar.hosts.stored(version, ids_of(version), "b")
    assert await cellar.hosts.stored(version, ids_of(version), None)  # nothing can be seen there


async def test_where_the_disk_can_not_be_seen_the_server_is_asked_to_find_it_all() -> None:
    ledger = Ledger({"w": "kv"})
    fake = FakeHost()
    server = BlindServer(fake)
    hosts = Hosts([server], ledger)
    cellar = Cellar()
    version = cellar.add("a")
    cellar.telemetry.close()
    assert not await hosts.stored(version, ids_of(version), "kv")
    for end in range(16, version.prefix_tokens + 1, 16):
        fake.store(version.salt, tuple(ids_of(version)[:end]))
    assert await hosts.stored(version, ids_of(version), "kv")
    assert dict(ledger.disk("kv").salts) == {}
    server.problem = "is down"
    assert not await hosts.stored(version, ids_of(version), "kv")


async def test_where_there_is_no_kv_server_no_keys_are_known() -> None:
    ledger = Ledger()
    cellar = Cellar()
    version = cellar.add("a")
    cellar.telemetry.close()
    hosts = Hosts([], ledger)
    assert hosts.know(version, ids_of(version)) == ()
    assert await hosts.stored(version, ids_of(version), None)
    await hosts.delete(version.salt, ())


@pytest.mark.parametrize(("ram", "disk"), [(True, False), (False, True), (True, True)])
async def test_what_is_deleted_is_believed_to_be_gone_from_there_alone(cellar: Cellar, ram: bool, disk: bool) -> None:
    version = cellar.add("a", on="ab")
    keys = cellar.ledger.keys(version.salt)
    for host in "ab":
        for key in keys:
            cellar.ledger.ram(host).stored(version.salt, key, 1)
    await cellar.hosts.delete(version.salt, keys, ram=ram, disk=disk, host="b")
    assert (cellar.ledger.ram_share(version, "a"), cellar.ledger.disk_share(version, "a")) == (1, 1)
    assert (cellar.ledger.ram_share(version, "b"), cellar.ledger.disk_share(version, "b")) == (not ram, not disk)
    assert (version.salt in cellar.fakes["b"].ram, version.salt in cellar.fakes["b"].disk) == (not ram, not disk)


async def test_what_could_not_be_deleted_is_believed_to_be_there(cellar: Cellar) -> None:
    version = cellar.add("a", on="ab")
    cellar.servers["b"].problem = "is down"
    with pytest.raises(OSError, match="is down"):
        await cellar.hosts.delete(version.salt, cellar.ledger.keys(version.salt))
    assert (cellar.ledger.disk_share(version, "a"), cellar.ledger.disk_share(version, "b")) == (0, 1)


def test_keys_are_computed_once(cellar: Cellar) -> None:
    version = cellar.add("a")
    keys = cellar.hosts.know(version, ids_of(version))
    assert keys == cellar.servers["a"].keys(ids_of(version))
    assert cellar.hosts.know(version, ()) == keys
    assert cellar.ledger.keys(Salt("other")) == ()
