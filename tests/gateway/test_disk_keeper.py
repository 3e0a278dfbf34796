"""Promises of room and evictions where several want room at once, on two hosts: what the whole gateway seldom shows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from router.documents import DocumentId
from router.errors import StorageFull
from tests.gateway.cellar import OWNER, SIZE, Cellar


@pytest.fixture
def cellar() -> Iterator[Cellar]:
    cellar = Cellar()
    yield cellar
    cellar.ledger.check()
    cellar.telemetry.close()


def pin(cellar: Cellar, name: str) -> None:
    document = cellar.catalog.get(OWNER, DocumentId(name))
    assert document is not None
    cellar.catalog = cellar.catalog.with_document(replace(document, pinned=True))


async def test_each_host_has_a_budget_of_its_own(cellar: Cellar) -> None:
    for name in "abc":
        cellar.add(name, on="ab")
    new = cellar.add("d", incoming=True)
    await cellar.keeper.admit(cellar, new, "b")
    assert (cellar.on("a"), cellar.on("b")) == ("abc", "bc")
    assert cellar.promised == {"a": 0, "b": SIZE}
    cellar.write(new, "b")
    assert cellar.promised == {"a": 0, "b": 0}
    cellar.keeper.settle(new, "b")
    await cellar.keeper.admit(cellar, new, None)
    await cellar.keeper.admit(cellar, new, "no host of ours")
    assert (cellar.on("a"), cellar.on("b")) == ("abc", "bcd")


async def test_room_is_promised_once(cellar: Cellar) -> None:
    cellar.add("a", on="a")
    cellar.add("b", on="a")
    first, second = cellar.add("c", incoming=True), cellar.add("d", incoming=True)
    await asyncio.gather(cellar.keeper.admit(cellar, first, "a"), cellar.keeper.admit(cellar, second, "a"))
    assert cellar.on("a") == "b"
    assert cellar.promised["a"] == 2 * SIZE
    third = cellar.add("e", incoming=True)
    await cellar.keeper.admit(cellar, third, "a")
    with pytest.raises(StorageFull, match="being read"):
        await cellar.keeper.admit(cellar, cellar.add("f", incoming=True), "a")
    assert cellar.promised["a"] == 3 * SIZE


async def test_what_is_being_written_does_not_go_though_it_is_the_oldest(cellar: Cellar) -> None:
    """A question writes it, and may be answered already: nobody leases it any more."""
    oldest = cellar.add("a")
    for name in "bc":
        cellar.add(name, on="a")
    await cellar.keeper.admit(cellar, oldest, "a")
    cellar.write(oldest, "a", chunks=1)
    await cellar.keeper.admit(cellar, cellar.add("d", incoming=True), "a")
    assert cellar.on("a") == "ac"
    cellar.keeper.settle(oldest, "a")
    await cellar.keeper.admit(cellar, cellar.add("e", incoming=True), "a")
    assert cellar.on("a") == "c"


async def test_what_is_there_already_needs_no_room_again(cellar: Cellar) -> None:
    cellar.add("a", on="a")
    cellar.add("b", on="a")
    begun = cellar.add("c", incoming=True)
    cellar.write(begun, "a", chunks=2)
    await cellar.keeper.admit(cellar, begun, "a")
    assert cellar.on("a") == "abc"
    assert cellar.promised["a"] == SIZE // 3


async def test_a_promise_lasts_until_the_last_who_has_it_gives_it_back(cellar: Cellar) -> None:
    """A question and a reading may write the same version at once."""
    version = cellar.add("a")
    for _ in range(2):
        await cellar.keeper.admit(cellar, version, "a")
    cellar.keeper.settle(version, "a")
    assert cellar.promised["a"] == SIZE
    cellar.keeper.settle(version, "a")
    assert cellar.promised["a"] == 0
    cellar.keeper.settle(version, "a")
    cellar.keeper.settle(version, None)
    await cellar.keeper.admit(cellar, version, "a")
    assert cellar.promised["a"] == SIZE


async def test_what_was_refused_or_given_up_is_promised_nothing(cellar: Cellar) -> None:
    for name in "abc":
        cellar.add(name, on="a", pinned=True)
    new = cellar.add("d", incoming=True)
    with pytest.raises(StorageFull, match="pinned"):
        await cellar.keeper.admit(cellar, new, "a")
    assert cellar.promised["a"] == 0
    cellar.catalog = cellar.catalog.without(OWNER, DocumentId("a"))
    cellar.servers["a"].hold()
    admitting = asyncio.create_task(cellar.keeper.admit(cellar, new, "a"))
    await cellar.servers["a"].held.wait()
    admitting.cancel()
    await asyncio.gather(admitting, return_exceptions=True)
    assert cellar.promised["a"] == 0
    cellar.servers["a"].may.set()
    await cellar.keeper.admit(cellar, new, "a")
    assert cellar.on("a") == "bc"


async def test_what_is_asked_while_another_is_evicted_is_spared(cellar: Cellar) -> None:
    versions = {name: cellar.add(name, on="a") for name in "abc"}
    large = replace(cellar.add("d", incoming=True), prefix_tokens=2 * versions["a"].prefix_tokens)
    cellar.servers["a"].hold()
    admitting = asyncio.create_task(cellar.keeper.admit(cellar, large, "a"))
    await cellar.servers["a"].held.wait()
    cellar.ledger.lease(versions["b"])
    cellar.servers["a"].may.set()
    await admitting
    assert cellar.on("a") == "b"
    cellar.ledger.release(versions["b"])


async def test_what_is_asked_while_the_last_that_could_go_is_evicted_leaves_no_room(cellar: Cellar) -> None:
    versions = {name: cellar.add(name, on="a") for name in "abc"}
    pin(cellar, "c")
    large = replace(cellar.add("d", incoming=True), prefix_tokens=2 * versions["a"].prefix_tokens)
    cellar.servers["a"].hold()
    admitting = asyncio.create_task(cellar.keeper.admit(cellar, large, "a"))
    await cellar.servers["a"].held.wait()
    cellar.ledger.lease(versions["b"])
    cellar.servers["a"].may.set()
    with pytest.raises(StorageFull, match="in use by questions"):
        await admitting
    assert cellar.on("a") == "bc"
    assert cellar.promised["a"] == 0
    cellar.ledger.release(versions["b"])


async def test_what_is_pinned_while_another_waits_for_its_turn_is_spared(cellar: Cellar) -> None:
    for name in "abc":
        cellar.add(name, on="a")
    first, second = cellar.add("d", incoming=True), cellar.add("e", incoming=True)
    cellar.servers["a"].hold()
    admitting = [asyncio.create_task(cellar.keeper.admit(cellar, version, "a")) for version in (first, second)]
    await cellar.servers["a"].held.wait()
    pin(cellar, "b")
    cellar.servers["a"].may.set()
    await asyncio.gather(*admitting)
    assert cellar.on("a") == "b"


async def test_where_nothing_can_be_deleted_there_is_no_room(cellar: Cellar) -> None:
    for name in "abc":
        cellar.add(name, on="a")
    cellar.servers["a"].problem = "is down"
    with pytest.raises(StorageFull, match="is down"):
        await cellar.keeper.admit(cellar, cellar.add("d", incoming=True), "a")
    assert (cellar.on("a"), cellar.promised["a"]) == ("abc", 0)
    assert cellar.ledger.disk("a").total_bytes == 3 * SIZE


async def test_a_disk_that_can_not_be_looked_at_has_no_room(cellar: Cellar) -> None:
    version = cellar.add("a", incoming=True)
    cellar.servers["a"].broken = OSError("the folder is gone")
    with pytest.raises(StorageFull, match="the folder is gone"):
        await cellar.keeper.admit(cellar, version, "a")
    assert cellar.promised["a"] == 0
    await cellar.keeper.check(cellar.catalog, OWNER, version.prefix_tokens)  # the other host has room
    cellar.servers["b"].broken = OSError("the folder is gone")
    with pytest.raises(StorageFull, match="the folder is gone"):
        await cellar.keeper.check(cellar.catalog, OWNER, version.prefix_tokens)
    await cellar.keeper.keep(cellar)


async def test_one_host_with_room_is_enough_to_take_a_document_in(cellar: Cellar) -> None:
    for name in "abc":
        cellar.add(name, on="ab", pinned=True)
    tokens = cellar.add("d", incoming=True).prefix_tokens
    with pytest.raises(StorageFull, match="pinned"):
        await cellar.keeper.check(cellar.catalog, OWNER, tokens)
    cellar.fakes["b"].disk.pop("a")
    await cellar.hosts.scan()
    await cellar.keeper.check(cellar.catalog, OWNER, tokens)


async def test_what_stays_only_for_a_while_keeps_no_document_from_being_taken_in(cellar: Cellar) -> None:
    """It will wait for its room, which those that are read, asked or promised something now will leave to it."""
    asked, read = cellar.add("a", on="ab"), cellar.add("b", incoming=True)
    cellar.ledger.lease(asked)
    promised = cellar.add("c", on="", incoming=True)
    for host in "ab":
        cellar.write(read, host)
        await cellar.keeper.admit(cellar, promised, host)
    await cellar.keeper.check(cellar.catalog, OWNER, read.prefix_tokens)
    with pytest.raises(StorageFull):
        await cellar.keeper.check(cellar.catalog, OWNER, 4 * read.prefix_tokens)
    pin(cellar, "c")
    with pytest.raises(StorageFull, match="being read"):
        await cellar.keeper.check(cellar.catalog, OWNER, 3 * read.prefix_tokens)
    cellar.ledger.release(asked)


async def test_what_another_engine_read_goes_first_though_its_document_is_pinned(cellar: Cellar) -> None:
    for name in "abc":
        cellar.add(name, on="ab", pinned=True)
        document = cellar.catalog.get(OWNER, DocumentId(name))
        assert document is not None
        assert document.current is not None
        stale = replace(document.current, fingerprint="of another engine")
        cellar.catalog = cellar.catalog.with_document(replace(document, current=stale))
    new = cellar.add("d", incoming=True)
    await cellar.keeper.check(cellar.catalog, OWNER, new.prefix_tokens)
    await cellar.keeper.admit(cellar, new, "a")
    assert cellar.on("a") == "bc"


async def test_what_is_too_much_goes_where_it_may(cellar: Cellar) -> None:
    for name in "abcd":
        cellar.add(name, on="ab")
    cellar.add("e", on="b", pinned=True)
    for name in "abcd":
        if name != "c":
            pin(cellar, name)
    await cellar.keeper.keep(cellar)
    assert (cellar.on("a"), cellar.on("b")) == ("abd", "abcde")  # where it would not help, nothing goes


async def test_a_document_that_is_read_anew_keeps_the_version_that_answers_while_that_is_asked(cellar: Cellar) -> None:
    """Its older version goes in its turn, the one that is being read does not."""
    old = cellar.add("a", on="a")
    document = cellar.catalog.get(OWNER, DocumentId("a"))
    assert document is not None
    other = cellar.add("b", on="a")
    new = replace(other, id="a-2", salt="a-2")
    cellar.catalog = cellar.catalog.with_document(replace(document, incoming=new))
    cellar.write(new, "a")
    await cellar.keeper.admit(cellar, cellar.add("d", incoming=True), "a")
    assert sorted(cellar.fakes["a"].disk) == ["a-2", "b"]
    assert old.salt not in cellar.ledger.disk("a").salts


async def test_where_a_budget_is_unknown_and_nothing_is_weighed_nothing_goes() -> None:
    cellar = Cellar(budget_gib=None, min_free_gib=0.0)
    for name in "abcdefgh":
        cellar.add(name, on="a")
    await cellar.keeper.admit(cellar, cellar.add("i", incoming=True), "a")
    await cellar.keeper.keep(cellar)
    assert cellar.on("a") == "abcdefgh"
    cellar.telemetry.close()
