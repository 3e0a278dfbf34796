"""What one tenant's documents may take of RAM: its own leave first, nobody else's because of it, and nothing goes round in a circle."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.sections import Ram
from gateway.tiers import ram_keeper
from gateway.tiers.disk_keeper import GIB
from gateway.upkeep import prefetcher
from router.documents import SHARED, DocumentId, Owner
from router.limits import Limits
from tests.fakes.engine import CHUNK_BYTES
from tests.fakes.gateway import eventually
from tests.gateway.ahead import Rig, shelved
from tests.gateway.attic import CHUNKS, OWNER, SIZE, Attic, ids_of, ram_bytes
from tests.gateway.tiers import SIZE as DOCUMENT
from tests.gateway.tiers import TieredGateway, TrueHost, text

OTHER = Owner("tenant-b")
QUESTION = "What is it about?"


@pytest.fixture
async def attic() -> Attic:
    """Room for ten; tenant-a may take that of two."""
    attic = Attic()
    await attic.looked()
    attic.limits[OWNER] = Limits(ram_gib=2 * SIZE / GIB)
    return attic


async def test_beyond_its_limit_a_tenants_least_worthy_leave_for_the_disk_and_nobody_elses(attic: Attic) -> None:
    attic.add("o", owner=OTHER)  # older than all
    attic.add("s", owner=SHARED)
    versions = [attic.add(name) for name in "abcd"]
    attic.ram.used(versions[0])
    await attic.ram.trim("a")
    assert attic.held() == "ados"
    assert set(attic.fakes["a"].disk) == set("abcdos")
    for name in "pqr":
        attic.add(name, owner=OTHER)
    await attic.ram.trim("a")
    assert attic.held() == "adopqrs", "the limit is tenant-a's alone"


async def test_what_all_share_is_nobodys(attic: Attic) -> None:
    attic.limits[SHARED] = Limits(ram_gib=1 / GIB)
    for name in "abc":
        attic.add(name, owner=SHARED)
    await attic.ram.trim("a")
    assert attic.held() == "abc"


async def test_each_host_has_as_much(attic: Attic) -> None:
    for name in "abcd":
        attic.add(name, on="ab" if name in "ab" else "b")
    await attic.ram.trim("a")
    await attic.ram.trim("b")
    assert (attic.held("a"), attic.held("b")) == ("ab", "cd")


async def test_pinned_and_asked_ones_stay_and_count(attic: Attic) -> None:
    attic.add("a", pinned=True)
    asked = attic.add("b")
    for name in "cd":
        attic.add(name)
    attic.ledger.lease(asked)
    await attic.ram.trim("a")
    assert attic.held() == "ab"
    attic.pin("b")
    attic.add("e", pinned=True)
    attic.add("f")
    await attic.ram.trim("a")
    assert attic.held() == "abe", "above the limit, and nothing else can go"


async def test_before_a_limited_tenants_document_comes_its_own_go_and_nobody_elses(attic: Attic) -> None:
    """RAM is full: by the policy's order alone the others would have gone, as they were asked longest ago."""
    for name in "opqrst":
        attic.add(name, owner=OTHER)
    for name in "ab":
        attic.add(name)
    assert await attic.ram.make_room(attic.add("c", on=""), "a")
    assert attic.held() == "bopqrst"
    assert await attic.ram.make_room(attic.add("u", on="", owner=OTHER), "a")
    assert attic.held() == "bopqrst", "one that is not limited has no limit's room to make"


async def test_what_is_coming_counts_and_is_not_counted_twice(attic: Attic) -> None:
    attic.add("a")
    attic.add("o", owner=OTHER)
    first, second, foreign = attic.add("x", on="b"), attic.add("y", on="b"), attic.add("z", on="b", owner=OTHER)
    async with attic.ram.room(foreign, "a"), attic.ram.room(first, "a"):
        assert attic.held() == "ao"
        async with attic.ram.room(first, "a"):
            assert attic.held() == "ao"
        async with attic.ram.room(second, "a"):
            assert attic.held() == "o"


async def test_what_is_beyond_its_tenants_limit_makes_room_for_others_before_anything_else(attic: Attic) -> None:
    """Though it was asked last, and the next look, at which it had left, has not come yet."""
    for name in "opqrs":
        attic.add(name, owner=OTHER)
    for name in "abcd":
        attic.add(name)
    assert await attic.ram.make_room(attic.add("t", on="", owner=OTHER), "a")
    assert attic.held() == "bcdopqrs"


async def test_a_document_larger_than_the_limit_is_asked_and_leaves_once_nobody_uses_it(attic: Attic) -> None:
    attic.add("o", owner=OTHER)
    attic.add("a")
    whale = attic.add("w", on="", chunks=3 * CHUNKS)
    attic.ledger.lease(whale)
    async with attic.ram.restoring(whale, ids_of(whale), "a"):
        assert attic.held() == "o"
        attic.load(whale)
    attic.add("b")
    for _ in range(3):
        await attic.ram.trim("a")
    assert attic.held() == "ow"
    attic.ledger.release(whale)
    attic.add("c")
    await attic.ram.trim("a")
    assert attic.held() == "co"


async def test_what_is_asked_or_pinned_while_others_leave_stays_and_a_limit_that_is_raised_holds_at_once(attic: Attic) -> None:
    versions = [attic.add(name) for name in "abcdef"]

    def asked() -> None:
        attic.servers["a"].before_delete = raised
        attic.ledger.lease(versions[1])

    def raised() -> None:
        attic.servers["a"].before_delete = None
        attic.limits[OWNER] = Limits(ram_gib=4 * SIZE / GIB)

    attic.servers["a"].before_delete = asked
    await attic.ram.trim("a")
    assert attic.held() == "bdef"


async def test_two_looks_at_once_evict_no_more_than_one(attic: Attic) -> None:
    for name in "abc":
        attic.add(name)
    server = attic.servers["a"]
    server.may.clear()
    looks = [asyncio.create_task(attic.ram.trim("a")) for _ in range(2)]
    await eventually(lambda: server.deleting)
    server.may.set()
    await asyncio.gather(*looks)
    assert (attic.held(), server.evicted) == ("bc", ["a"])


async def test_what_no_document_has_is_not_the_tenants(attic: Attic) -> None:
    for name in "abc":
        attic.add(name)
    attic.shelf.catalog = attic.shelf.catalog.without(OWNER, DocumentId("c"))
    await attic.ram.trim("a")
    assert attic.held() == "abc"


async def test_what_left_for_a_limit_does_not_say_how_soon_ram_is_renewed(attic: Attic) -> None:
    for name in "abc":
        attic.add(name)
    before = repr(vars(attic.ram.promotions["a"]._made_room))
    await attic.ram.trim("a")
    assert attic.held() == "bc"
    assert repr(vars(attic.ram.promotions["a"]._made_room)) == before


async def test_while_ram_can_not_be_evicted_from_it_is_tried_again(attic: Attic) -> None:
    for name in "abc":
        attic.add(name)
    attic.servers["a"].problem = "is down"
    await attic.ram.trim("a")
    assert attic.held() == "abc"
    attic.servers["a"].problem = None
    await attic.ram.trim("a")
    assert attic.held() == "bc"


# --- through the gateway


def limits_file(folder: Path, documents: float) -> Path:
    path = folder / "tenants.yaml"
    path.write_text(json.dumps({"tenants": {"tenant-a": {"ram_gib": documents * DOCUMENT / GIB}}}))
    return path


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ram_keeper, "LOOK_EVERY_S", 0.005)
    monkeypatch.setattr(prefetcher, "LOOK_EVERY_S", 0.005)


async def of_both(running: TieredGateway, names: str) -> None:
    """Three documents of the tenant without a limit, then these of the one that has one."""
    other = await running.new_key("tenant-b")
    for name in "xyz":
        await running.add(text(name), id=name, key=other)
    for name in names:
        await running.add(text(name), id=name)


def of_tenants(running: TieredGateway) -> dict[str, set[str]]:
    """The documents of which anything is in RAM, by owner."""
    found: dict[str, set[str]] = {}
    for document in running.shelf.catalog:
        if any(version.salt in running.host.ram for version in document.versions):
            found.setdefault(document.owner, set()).add(document.id)
    return found


@pytest.mark.usefixtures("eager")
async def test_through_the_gateway_a_tenants_own_leave_ram_and_answer_from_disk(tmp_path: Path) -> None:
    gateway = TieredGateway(tmp_path, tenants=limits_file(tmp_path, 2), ram=Ram(policy="lru"))
    async with gateway.running() as running:
        await of_both(running, "abcd")
        await eventually(lambda: of_tenants(running) == {"tenant-a": set("cd"), "tenant-b": set("xyz")})
        running.workers[0].restart()
        answer = await running.ask(QUESTION, document="a")
        assert answer["headers"]["x-cache-tier"] == "disk"
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= running.version("a").prefix_tokens
        await eventually(lambda: of_tenants(running) == {"tenant-a": set("ad"), "tenant-b": set("xyz")})
        assert running.on_disk() == set("abcdxyz")


@pytest.mark.usefixtures("eager")
async def test_through_the_gateway_one_that_is_too_large_is_answered_and_does_not_come_and_go(tmp_path: Path) -> None:
    async with shelved(tmp_path, "a", follows=True, tenants=limits_file(tmp_path, 0.5), ram=Ram(policy="lru")) as running:
        for _ in range(2):
            answer = await running.ask(QUESTION, document="a")
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= running.version("a").prefix_tokens
            await eventually(lambda: not running.host.ram)
            running.workers[0].restart()
        await running.json("PATCH", "/v1/documents/a", json={"pinned": True})
        await looked(running)
        assert (running.server.tried, running.in_ram()) == ([], set())
        assert running.server.evicted == [running.salt("a")] * 2


@pytest.mark.usefixtures("eager")
async def test_what_is_likely_or_pinned_is_brought_within_the_limit_alone(tmp_path: Path) -> None:
    """Pins come for what isn't pinned, up to the limit; then nothing comes and goes any more."""
    async with shelved(tmp_path, "a", "b", "c", "d", follows=True, tenants=limits_file(tmp_path, 2)) as running:
        await running.ask(QUESTION, document="a")
        await eventually(lambda: running.in_ram() == set("ab"))
        await running.ask(QUESTION, document="b")  # until then it is left in peace
        for name in "cd":
            await running.json("PATCH", f"/v1/documents/{name}", json={"pinned": True})
        await eventually(lambda: running.in_ram() == set("cd"))
        await running.json("PATCH", "/v1/documents/z", json={"pinned": True})
        running.server.tried.clear()
        running.server.evicted.clear()
        await running.ask(QUESTION, document="a")
        await eventually(lambda: running.in_ram() == set("cd"))
        await looked(running)
        assert (running.server.tried, running.in_ram()) == ([], set("cd"))
        assert set(running.server.evicted) <= {running.salt("a")}


async def looked(running: Rig) -> None:
    """RAM was looked at, and planned, some times more."""
    looks = running.server.looks
    await eventually(lambda: running.server.looks > looks + 20)


@pytest.mark.usefixtures("eager")
async def test_however_one_tenant_floods_the_other_keeps_its_ram(tmp_path: Path) -> None:
    host = TrueHost()
    host.ram_bytes = ram_bytes(8, DOCUMENT)
    gateway = TieredGateway(tmp_path, hosts=[host], tenants=limits_file(tmp_path, 2), ram=Ram(policy="lru"))
    async with gateway.running() as running:
        await of_both(running, "abcdefgh")

        for name in "abcdefgh":
            running.workers[0].restart()
            await running.ask(QUESTION, document=name)
            assert of_tenants(running)["tenant-b"] == set("xyz")
        await eventually(lambda: of_tenants(running)["tenant-a"] == set("gh"))
        assert sum(len(chunks) for chunks in host.ram.values()) * CHUNK_BYTES <= 5 * DOCUMENT
