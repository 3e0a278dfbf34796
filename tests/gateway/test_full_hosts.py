"""Two hosts, one of them with no room or no KV server: documents go to the other one."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.gateway import eventually
from tests.gateway.tiers import TieredGateway, TrueHost, budget, text

NAMES = "abcdef"


def two_hosts() -> list[TrueHost]:
    return [TrueHost(name="left"), TrueHost(name="right")]


async def test_a_document_whose_host_is_full_of_pins_is_read_on_the_other(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(3), hosts=two_hosts(), workers=2).running() as running:
        for name in NAMES:
            await running.add(text(name), id=name, pinned=True)
        assert [len(host.disk) for host in running.hosts] == [3, 3]


async def test_a_document_is_not_read_where_the_kv_server_is_away(tmp_path: Path) -> None:
    async with TieredGateway(tmp_path, disk=budget(20), hosts=two_hosts(), workers=2).running() as running:
        running.kv_servers[0].problem = "is down"
        await eventually(lambda: _is_away(running, "left"))
        for name in NAMES:
            await running.add(text(name), id=name)
        assert [len(host.disk) for host in running.hosts] == [0, len(NAMES)]


async def _is_away(running: TieredGateway, host: str) -> bool:
    return f"kv server {host}" in (await running.health())["problems"]
