"""Room in RAM: made by whole documents, in the policy's order, never from what is pinned or asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.sections import Ram
from gateway.tiers import ram_keeper
from router.catalog import Catalog
from router.documents import DocumentId
from tests.fakes.engine import CHUNK, CHUNK_BYTES
from tests.fakes.gateway import eventually
from tests.gateway.attic import CHUNKS, OWNER, SIZE, Attic, Peak, ids_of, ram_bytes
from tests.gateway.tiers import SIZE as DOCUMENT
from tests.gateway.tiers import TieredGateway, TrueHost, text


@pytest.fixture
async def attic() -> Attic:
    attic = Attic()
    await attic.looked()
    return attic


async def test_what_was_asked_longest_ago_leaves_whole_until_twice_the_largest_is_free(attic: Attic) -> None:
    versions = [attic.add(name) for name in "abcdefghij"]
    attic.ram.used(versions[0])
    assert attic.ram.target_bytes("a") == 8 * SIZE
    await attic.ram.trim("a")
    assert attic.held() == "adefghij"
    assert set(attic.fakes["a"].disk) == set("abcdefghij")
    attic.add("z", on="", chunks=2 * CHUNKS)
    assert attic.ram.target_bytes("a") == 6 * SIZE
    await attic.ram.trim("a")
    assert attic.held() == "afghij"


@pytest.mark.parametrize(("chunks", "kept"), [(1, 9.0), (6 * CHUNKS, 5.0)])
async def test_what_is_kept_free_is_neither_nothing_nor_most_of_it(attic: Attic, chunks: int, kept: float) -> None:
    attic.add("a", on="", chunks=chunks)
    assert attic.ram.target_bytes("a") == pytest.approx(kept * SIZE, abs=2)


async def test_each_host_has_room_of_its_own(attic: Attic) -> None:
    for name in "abcdefghij":
        attic.add(name, on="ab" if name in "ab" else "a")
    await attic.ram.trim("a")
    await attic.ram.trim("b")
    assert (attic.held("a"), attic.held("b")) == ("cdefghij", "ab")


async def test_pinned_and_asked_ones_stay(attic: Attic) -> None:
    versions = [attic.add(name, pinned=name in "ab") for name in "abcdefghij"]
    attic.ledger.lease(versions[2])
    await attic.ram.trim("a")
    assert attic.held() == "abcfghij"
    attic.ledger.release(versions[2])
    assert await attic.ram.make_room(attic.add("z", on=""), "a")
    assert attic.held() == "abcfghij"
    for name in "cfghij":
        attic.pin(name)
    large = attic.add("y", on="", chunks=2 * CHUNKS)
    assert not await attic.ram.make_room(large, "a")
    assert attic.held() == "abcfghij"


async def test_what_no_document_has_leaves_first_but_for_what_a_question_still_uses(attic: Attic) -> None:
    versions = [attic.add(name) for name in "abcdefghij"]
    for name in "ij":
        attic.shelf.catalog = attic.shelf.catalog.without(OWNER, DocumentId(name))
    attic.ledger.lease(versions[9])
    await attic.ram.trim("a")
    assert attic.held() == "bcdefghj"
    attic.ledger.release(versions[9])
    assert await attic.ram.make_room(attic.add("z", on="", chunks=CHUNKS + 1), "a")
    assert attic.held() == "bcdefgh"


async def test_the_needless_is_not_counted_twice(attic: Attic) -> None:
    """Known to the policy too, as the least worth, it was thought to make room once more."""
    for name in "abcdefghij":
        attic.add(name)
    attic.ram.policy("a")
    attic.shelf.catalog = attic.shelf.catalog.without(OWNER, DocumentId("a"))
    await attic.ram.trim("a")
    assert attic.held() == "cdefghij"


async def test_what_is_asked_or_pinned_while_others_are_deleted_stays(attic: Attic) -> None:
    versions = [attic.add(name) for name in "abcdefghij"]

    def meanwhile() -> None:
        attic.servers["a"].before_delete = None
        attic.ledger.lease(versions[1])

    attic.servers["a"].before_delete = meanwhile
    await attic.ram.trim("a")
    assert attic.held() == "bcdefghij"
    await attic.ram.trim("a")
    assert attic.held() == "bdefghij"


async def test_two_that_need_room_at_once_evict_no_more_than_one_after_the_other(attic: Attic) -> None:
    for name in "abcdefghi":
        attic.add(name)
    server = attic.servers["a"]
    server.may.clear()
    one, other = (asyncio.create_task(attic.ram.make_room(attic.add(name, on=""), "a")) for name in "yz")
    await eventually(lambda: server.deleting)
    server.may.set()
    assert all(await asyncio.gather(one, other))
    assert attic.held() == "bcdefghi"
    assert server.evicted == ["a"]


async def test_the_room_of_what_is_being_restored_is_kept_free_of_others(attic: Attic) -> None:
    for name in "abcdefgh":
        attic.add(name)
    first, second = attic.add("y", on="b"), attic.add("z", on="b")
    async with attic.ram.room(first, "a") as made:
        assert made
        assert attic.held() == "abcdefgh"  # beside which there is room for one, twice
        async with attic.ram.room(second, "a"):
            assert attic.held() == "cdefgh"
            async with attic.ram.room(second, "a"):  # the same once more
                assert attic.held() == "cdefgh"
    for name in "ab":
        attic.load(attic.version(name))
    async with attic.ram.room(second, "a"):
        assert attic.held() == "abcdefgh"  # the first is not waited for any more


async def test_the_policy_is_told_of_what_came_and_went(attic: Attic) -> None:
    a, b = attic.add("a"), attic.add("b")
    order = attic.ram.policy("a")
    assert order is not None
    assert order.victims(2 * SIZE, attic.now) == ("a", "b")
    attic.fakes["a"].forget_ram("a")
    assert attic.ram.policy("a") is order
    assert order.victims(SIZE, attic.now) == ("b",)
    assert order.victims(2 * SIZE, attic.now) == ()
    attic.load(a)
    attic.ram.used(b)
    assert order.victims(SIZE, attic.now) == ("a",)


async def test_a_part_in_ram_counts_for_what_it_takes(attic: Attic) -> None:
    a = attic.add("a", on="")
    attic.hosts.know(a, ids_of(a))
    attic.fakes["a"].store(a.salt, tuple(ids_of(a)[:CHUNK]))
    order = attic.ram.policy("a")
    assert order is not None
    assert order.victims(CHUNK_BYTES + 1, attic.now) == ()
    attic.load(a)
    attic.ram.policy("a")
    assert order.victims(SIZE, attic.now) == ("a",)


async def test_while_the_size_is_unknown_nothing_is_evicted_and_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ram_keeper, "LOOK_EVERY_S", 0.005)
    attic = Attic()
    attic.fakes["a"].ram_bytes = 0
    versions = [attic.add(name) for name in "abcdefghij"]
    task = asyncio.create_task(attic.ram.run())
    try:
        await eventually(lambda: "b" in attic.ram.capacity_bytes)
        assert attic.ram.policy("a") is None
        assert await attic.ram.make_room(versions[0], "a")
        assert await attic.ram.make_room(versions[0], None)
        assert attic.held() == "abcdefghij"
        attic.fakes["a"].ram_bytes = ram_bytes(10)
        await eventually(lambda: len(attic.held()) == 8)
        attic.fakes["a"].ram_bytes = ram_bytes(5)  # the server started again with less
        await eventually(lambda: attic.held() == "".join(sorted(attic.held())) and len(attic.held()) == 3)
        attic.servers["a"].problem = "is down"
        assert attic.ram.policy("a") is not None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_for_a_document_larger_than_the_tier_nothing_is_evicted(attic: Attic) -> None:
    for name in "abcde":
        attic.add(name)
    whale = attic.add("w", on="", chunks=11 * CHUNKS)
    assert not await attic.ram.make_room(whale, "a")
    assert attic.held() == "abcde"


async def test_what_fits_but_not_twice_is_brought_in_steps_what_fits_is_left_to_the_question(attic: Attic) -> None:
    for name in "abcde":
        attic.add(name)
    small, large = attic.add("s", on="b"), attic.add("l", on="b", chunks=6 * CHUNKS)
    for version in (small, large):
        attic.fakes["a"].disk[version.salt] = attic.fakes["b"].disk[version.salt]
    async with attic.ram.restoring(small, ids_of(small), "a"):
        pass
    assert (attic.servers["a"].prefetched, attic.held()) == ([], "abcde")
    async with attic.ram.restoring(large, ids_of(large), "a"):
        pass
    assert (attic.servers["a"].prefetched, attic.held()) == (["l"], "l")


async def test_where_it_cannot_be_brought_the_question_goes_on(attic: Attic) -> None:
    large = attic.add("l", on="", chunks=6 * CHUNKS)
    attic.servers["a"].problem = "is down"
    async with attic.ram.restoring(large, ids_of(large), "a"):
        pass
    async with attic.ram.restoring(large, ids_of(large), None):
        pass
    assert attic.servers["a"].prefetched == []


async def test_what_could_not_be_evicted_is_still_counted_as_there(attic: Attic) -> None:
    for name in "abcdefghij":
        attic.add(name)
    attic.servers["a"].problem = "is down"
    await attic.ram.trim("a")
    assert attic.ledger.ram("a").total_bytes == 10 * SIZE
    attic.servers["a"].problem = None
    await attic.ram.trim("a")
    assert attic.held() == "cdefghij"


async def test_however_many_documents_there_are_a_question_does_not_look_through_them(attic: Attic) -> None:
    class Counted(Catalog):
        looks = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            Counted.looks += 1
            return super().__iter__()

    versions = [attic.add(name) for name in "abc"]
    attic.shelf.catalog = Counted(attic.shelf.catalog)
    for version in versions:
        attic.ram.used(version)
        await attic.ram.make_room(version, "a")
        attic.ram.policy("a")
    assert Counted.looks <= 1  # for the index


async def test_ram_stays_within_its_size_while_more_is_read_and_asked_than_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ram_keeper, "LOOK_EVERY_S", 0.005)
    host = TrueHost()
    host.ram_bytes = ram_bytes(4, DOCUMENT)
    peak = Peak(host)
    async with TieredGateway(tmp_path, hosts=[host], ram=Ram(policy="lru")).running() as running:
        for name in "abcdefgh":
            await running.add(text(name), id=name)
            for worker in running.workers:
                worker.gpu.clear()
        for name in "abcdefgh":
            running.ledger.forget_worker("worker-1")
            answer = await running.ask("What is it about?", document=name)
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= running.version(name).prefix_tokens
            assert peak.look() <= 4 * DOCUMENT
        assert running.on_disk() == set("abcdefgh")
