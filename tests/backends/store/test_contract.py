"""What every `Store` does: the fake that other tests use, SQLite and PostgreSQL. `test_values.py` sends any value through."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from backends.base import ApiKey, Content, Store
from router.documents import Descriptor, DocumentId, Owner, Part, Salt, TenantId, VersionId, VersionState
from router.errors import Conflict, NotFound, StoreUnavailable
from router.limits import Rates
from tests.backends.store.samples import CONTENT, document, stored, version


def key(public_id: str = "k1", **fields: object) -> ApiKey:
    known = ApiKey(public_id=public_id, tenant=TenantId("acme"), name="laptop", secret_hash="5e", scopes=("ask",), created_at=2.5)
    return replace(known, **fields)


async def test_a_new_store_is_empty_and_well(store: Store) -> None:
    assert await store.check() is None
    assert (await store.documents(), await store.unlinked_versions(), await store.keys()) == ([], [], [])


# --- documents and versions


async def test_a_document_without_versions(store: Store) -> None:
    lease = document(
        descriptor=Descriptor("Lease", "Who pays what", ("flat", "law"), ("Who pays?",)), source="file", updated_at=3.25
    )
    await store.put_document(lease)
    assert await store.documents() == [lease]


async def test_how_long_a_document_is_kept(store: Store) -> None:
    for kept in (document(pinned=True), document(ttl_s=3600.0, expires_at=1_800_003_600.25), document(expires_at=7.5), document()):
        await store.put_document(kept)
        assert await store.documents() == [kept]


async def test_whose_words_a_descriptor_has(store: Store) -> None:
    for marked in (
        document(generated=("summary", "questions")),
        document(generated=("summary",), edited=("questions",)),
        document(),
    ):
        await store.put_document(marked)
        assert await store.documents() == [marked]


async def test_a_document_in_volumes_and_a_volume(store: Store) -> None:
    volumes, coming = (DocumentId("lease#1"), DocumentId("lease#2")), (DocumentId("lease#3"),)
    whole = document(volumes=volumes, coming=coming)
    volume = document(id=volumes[0], part=Part(whole.id, "Rent – Repairs"), volumes=(), coming=())
    await store.put_document(whole)
    await store.put_document(volume)
    assert {found.id: found for found in await store.documents()} == {whole.id: whole, volume.id: volume}
    plain = replace(whole, volumes=(), coming=())
    await store.put_document(plain)
    assert {found.id: found for found in await store.documents()} == {whole.id: plain, volume.id: volume}


async def test_a_version_is_stored_with_its_content_and_its_document(store: Store) -> None:
    new = version(state=VersionState.READING, read_tokens=256, error="retrying", created_at=7.125)
    lease = document(incoming=new)
    await store.add_version(lease, new, CONTENT)
    assert await store.documents() == [lease]
    assert await store.content(new.id) == CONTENT
    assert await store.unlinked_versions() == []


async def test_a_second_version_comes_in_beside_the_first(store: Store) -> None:
    first, second = version("v1", state=VersionState.READY), version("v2")
    await store.add_version(document(current=first), first, CONTENT)
    renamed = document(descriptor=Descriptor("Lease 2027"), current=first, incoming=second, updated_at=9.0)
    await store.add_version(renamed, second, Content(text="other", prefix_ids=b""))
    assert await store.documents() == [renamed]
    assert (await store.content(first.id)).text == CONTENT.text
    assert (await store.content(second.id)).text == "other"


async def test_a_version_that_the_document_does_not_name_comes_in(store: Store) -> None:
    await store.add_version(document(), version(), CONTENT)
    assert await store.documents() == [document(incoming=version())]


async def test_a_version_is_added_once_or_not_at_all(store: Store) -> None:
    await store.add_version(document(current=version()), version(), CONTENT)
    with pytest.raises(Conflict):
        await store.add_version(document("other", incoming=version()), version(read_tokens=5), Content(text="x", prefix_ids=b"y"))
    assert await store.documents() == [document(current=version())]
    assert await store.content(version().id) == CONTENT


async def test_a_link_to_a_version_that_is_not_stored_is_refused_whole(store: Store) -> None:
    with pytest.raises(Conflict):
        await store.put_document(document(current=version("gone")))
    with pytest.raises(Conflict):
        await store.add_version(document(current=version("gone"), incoming=version("new")), version("new"), CONTENT)
    assert (await store.documents(), await store.unlinked_versions()) == ([], [])
    with pytest.raises(NotFound):
        await store.content(VersionId("new"))


async def test_putting_a_document_changes_its_columns_and_links_only(store: Store) -> None:
    first, second = version("v1"), version("v2")
    await store.add_version(document(current=first), first, CONTENT)
    await store.add_version(document(current=first, incoming=second), second, CONTENT)
    changed = document(descriptor=Descriptor("New", questions=("Why?",)), current=replace(second, read_tokens=999), updated_at=4.0)
    await store.put_document(changed)
    assert await store.documents() == [replace(changed, current=second)]
    assert await store.unlinked_versions() == [first]


async def test_updating_a_version_touches_state_progress_and_error(store: Store) -> None:
    await store.add_version(document(incoming=version()), version(), CONTENT)
    failed = version(state=VersionState.FAILED, read_tokens=512, error="worker gone")
    await store.update_version(replace(failed, salt=Salt("another"), prefix_tokens=7))
    assert await store.documents() == [document(incoming=failed)]
    await store.update_version(version(state=VersionState.READY, read_tokens=1024))
    assert await store.documents() == [document(incoming=version(state=VersionState.READY, read_tokens=1024))]


async def test_changes_to_an_unknown_version_are_ignored(store: Store) -> None:
    await store.update_version(version("gone"))
    await store.set_vectors(VersionId("gone"), b"\0\1", "minilm")
    await store.remove_version(VersionId("gone"))
    assert (await store.documents(), await store.unlinked_versions()) == ([], [])


async def test_content_of_an_unknown_version(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.content(VersionId("gone"))


async def test_vectors_come_later(store: Store) -> None:
    await store.add_version(document(), version(), CONTENT)
    await store.set_vectors(version().id, b"\0\x3c" * 384, "minilm")
    assert await store.content(version().id) == replace(CONTENT, vectors=b"\0\x3c" * 384, embedder="minilm")


async def test_removing_a_version_takes_its_content(store: Store) -> None:
    await store.add_version(document(), version(), CONTENT)
    await store.put_document(document())
    await store.remove_version(version().id)
    assert await store.unlinked_versions() == []
    with pytest.raises(NotFound):
        await store.content(version().id)


async def test_removing_a_linked_version_unlinks_it(store: Store) -> None:
    first, second = version("v1"), version("v2")
    await store.add_version(document(current=first), first, CONTENT)
    await store.add_version(document(current=first, incoming=second), second, CONTENT)
    await store.remove_version(first.id)
    assert await store.documents() == [document(incoming=second)]


async def test_a_removed_document_leaves_its_versions_unlinked(store: Store) -> None:
    first, second, other = version("v1"), version("v2"), version("v3")
    await store.add_version(document(current=first), first, CONTENT)
    await store.add_version(document(current=first, incoming=second), second, CONTENT)
    await store.add_version(document(owner="*", current=other), other, CONTENT)
    await store.remove_document(Owner("acme"), DocumentId("lease"))
    assert await store.documents() == [document(owner="*", current=other)]
    assert sorted(left.id for left in await store.unlinked_versions()) == ["v1", "v2"]
    assert await store.content(first.id) == CONTENT


async def test_removing_an_absent_document_is_no_error(store: Store) -> None:
    await store.put_document(document())
    await store.remove_document(Owner("other"), DocumentId("lease"))
    await store.remove_document(Owner("acme"), DocumentId("other"))
    assert await store.documents() == [document()]


# --- keys


async def test_keys(store: Store) -> None:
    plain, bare = key("k1", limits=Rates(streams=2, token_budget=10**12, budget_period="month")), key("k2", scopes=(), name="")
    await store.add_key(plain)
    await store.add_key(bare)
    assert await store.key("k1") == plain
    assert await store.key("k3") is None
    assert sorted(await store.keys(), key=lambda found: found.public_id) == [plain, bare]


async def test_a_public_id_is_taken_once(store: Store) -> None:
    await store.add_key(key())
    with pytest.raises(Conflict):
        await store.add_key(key(name="thief"))
    assert await store.keys() == [key()]


async def test_a_key_is_revoked_once_for_all(store: Store) -> None:
    await store.add_key(key())
    assert await store.revoke_key("k1", 10.5)
    assert await store.revoke_key("k1", 99.0)
    assert await store.key("k1") == key(revoked_at=10.5)
    assert not await store.revoke_key("k2", 10.5)


# --- states


async def test_a_state_is_what_was_put_last(store: Store) -> None:
    assert await store.state("uses") is None
    for value, at in ((b"\0\xff one", 5.5), (b"two", 6.0), (b"", 4.0)):
        await store.put_state("uses", value, at)
        assert await store.state("uses") == value
    await store.put_state("other", b"another", 7.0)
    assert (await store.state("uses"), await store.state("other")) == (b"", b"another")


# --- life and company


async def test_what_was_stored_is_there_after_reopening(store: Store) -> None:
    await store.add_version(document(current=version()), version(), CONTENT)
    await store.add_key(key())
    await store.put_state("uses", b"many", 1.0)
    await store.close()
    await store.open()
    assert await store.documents() == [document(current=version())]
    assert await store.content(version().id) == CONTENT
    assert await store.keys() == [key()]
    assert await store.state("uses") == b"many"


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    await store.close()
    assert await store.check() == "The store is not open."
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.documents()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.put_document(document())


async def test_opening_twice_is_opening_once(store: Store) -> None:
    await store.put_document(document())
    await store.open()
    assert await store.documents() == [document()]


async def test_many_writers_at_once(store: Store) -> None:
    expected = [document(f"d{n}", current=version(f"v{n}")) for n in range(40)]
    await asyncio.gather(*(store.add_version(new, new.current, CONTENT) for new in expected if new.current))
    await asyncio.gather(*(store.update_version(version(f"v{n}", read_tokens=n)) for n in range(40)))
    found = {each.id: each.current for each in await store.documents()}
    assert found == {f"d{n}": version(f"v{n}", read_tokens=n) for n in range(40)}


async def test_a_reader_sees_all_of_a_call_or_nothing(store: Store) -> None:
    async def write() -> None:
        for n in range(15):
            await store.add_version(document(current=version(f"v{n}")), version(f"v{n}"), CONTENT)

    writing = asyncio.create_task(write())
    while not writing.done():
        for found in await store.documents():
            assert found.current is not None
            assert await store.content(found.current.id) == CONTENT
    await writing


@pytest.mark.parametrize("turns", [0, 1, 2, 4, 8, 16, 32])
async def test_a_cancelled_call_happened_or_did_not_and_harms_no_other(store: Store, turns: int) -> None:
    cut = asyncio.create_task(store.add_version(document(current=version()), version(), CONTENT))
    for _ in range(turns):
        await asyncio.sleep(0)
    cut.cancel()
    await asyncio.wait([cut])
    assert await store.documents() in ([], [document(current=version())])
    await store.add_version(document("other", current=version("v2")), version("v2"), CONTENT)
    assert ("acme", "other") in await stored(store)


@pytest.mark.parametrize("odd", ["a\0b", "\ud800", "a\\0000b", "\U0001f4da", "' OR 1=1 --", ""])
async def test_any_string_may_be_asked_for(store: Store, odd: str) -> None:
    assert await store.key(odd) is None
    assert not await store.revoke_key(odd, 1.0)
    with pytest.raises(NotFound):
        await store.content(VersionId(odd))
    await store.remove_document(Owner(odd), DocumentId(odd))
    await store.add_version(document(odd, odd), version(odd), CONTENT)
    assert list(await stored(store)) == [(odd, odd)]
    assert await store.content(VersionId(odd)) == CONTENT
    await store.put_state(odd, b"odd", 1.0)
    assert await store.state(odd) == b"odd"
