"""Everything at once, at random: questions, posts, removals, moves, pins, restarts. The disk's budget holds, and nothing is left over."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.tiers.disk_keeper import DiskKeeper
from router.documents import VersionState
from tests.fakes.gateway import eventually
from tests.gateway.tiers import SIZE, TieredGateway, TrueHost, TrueWorker, budget, text

NAMES = "abcdefgh"
OPERATIONS = 120
AT_ONCE = 7


class Crowd:
    """Clients of one gateway, who do what chance has them do."""

    def __init__(self, running: TieredGateway, chance: random.Random) -> None:
        self.running = running
        self.chance = chance

    async def act(self) -> None:
        acts = {self.ask: 9, self.post: 4, self.remove: 1, self.evict: 2, self.warm: 2, self.pin: 2, self.restart: 1}
        (act,) = self.chance.choices(list(acts), list(acts.values()))
        await act(self.chance.choice(NAMES))

    async def ask(self, name: str) -> None:
        question = {"document": name, "messages": [{"role": "user", "content": f"Is it {self.chance.random()}?"}]}
        asking = asyncio.create_task(self.request("POST", "/v1/chat/completions", json=question))
        if self.chance.random() < 0.2:  # the client leaves
            await asyncio.sleep(self.chance.random() * 0.01)
            asking.cancel()
        await asyncio.wait((asking,))
        if not asking.cancelled():
            asking.result()

    async def post(self, name: str) -> None:
        await self.request("POST", "/v1/documents", json={"text": text(name) + self.chance.choice(["", "!"]), "id": name})

    async def remove(self, name: str) -> None:
        await self.request("DELETE", f"/v1/documents/{name}")

    async def evict(self, name: str) -> None:
        tier = self.chance.choice(["all", "ram", "disk"])
        await self.request("POST", f"/v1/documents/{name}/evict", json={"tier": tier})

    async def warm(self, name: str) -> None:
        await self.request("POST", f"/v1/documents/{name}/warm", json={})

    async def pin(self, name: str) -> None:
        await self.request("PATCH", f"/v1/documents/{name}", json={"pinned": self.chance.random() < 0.3})

    async def restart(self, _: str) -> None:
        worker = self.chance.choice(self.running.workers)
        assert isinstance(worker, TrueWorker)
        worker.restart()
        if self.chance.random() < 0.5:
            worker.host.forget_ram()

    async def request(self, method: str, path: str, **more: Any) -> None:
        """What is refused is well refused."""
        async with self.running.request(method, path, **more) as response:
            answer = await response.text()
            assert response.status in (200, 202, 404, 409, 507), f"{response.status}: {answer}"


def at_rest(running: TieredGateway) -> bool:
    """Whether nothing is read, moved or asked any more."""
    incoming = [document.incoming for document in running.shelf.catalog if document.incoming is not None]
    used = any(running.ledger.in_use(version.salt) for document in running.shelf.catalog for version in document.versions)
    return not used and repr(running.moves) == "<Moves 0 under way>" and all(v.state is VersionState.FAILED for v in incoming)


@pytest.mark.parametrize(
    ("seed", "documents", "workers", "hosts"), [(1, 2, 1, 1), (2, 3, 2, 1), (3, 4, 3, 1), (4, 3, 2, 2), (5, 2, 3, 2)]
)
async def test_the_budget_holds_whatever_happens(tmp_path: Path, seed: int, documents: int, workers: int, hosts: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - decides what a test does
    there = [TrueHost(f"host-{number}") for number in range(hosts)]
    running = TieredGateway(tmp_path, disk=budget(documents, look_every_s=0.01), workers=workers, hosts=there)

    async def slowly(_: int) -> None:
        await asyncio.sleep(chance.random() * 0.004)

    for worker in running.workers:
        worker.before_delta = slowly
    async with running.running():
        crowd = Crowd(running, chance)
        under_way: set[asyncio.Task[None]] = set()
        for _ in range(OPERATIONS):
            under_way.add(asyncio.create_task(crowd.act()))
            if len(under_way) == AT_ONCE:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*under_way)
        for name in NAMES:
            await crowd.request("PATCH", f"/v1/documents/{name}", json={"pinned": False})
        await eventually(lambda: at_rest(running), within_s=20)
        running.ledger.check()
        assert all(host.peak_bytes <= documents * SIZE for host in there), [host.peak_bytes / SIZE for host in there]
        await eventually(lambda: all(running.ledger.disk(host.name).total_bytes == host.disk_bytes for host in there))
        keeper = running.shelf._need_room.__self__  # type: ignore[attr-defined]
        assert isinstance(keeper, DiskKeeper)
    assert [keeper.promised_bytes(host.name) for host in there] == [0] * hosts
