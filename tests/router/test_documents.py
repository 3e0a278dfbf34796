"""The catalog: who sees which document, and what makes a version's salt."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from router.catalog import Catalog
from router.documents import (
    SHARED,
    Descriptor,
    Document,
    DocumentId,
    Owner,
    Part,
    Salt,
    TenantId,
    Version,
    VersionId,
    VersionState,
    check_id,
    content_digest,
    slug,
    version_salt,
    volume_id,
)
from router.errors import InvalidRequest, NotFound
from router.viewers import Viewer

OWNERS = (Owner("acme"), Owner("globex"), SHARED)


def document(id_: str, owner: str = "acme", **links: Version) -> Document:
    return Document(owner=Owner(owner), id=DocumentId(id_), descriptor=Descriptor(title=f"{owner}'s {id_}"), **links)


def version(id_: str, state: VersionState) -> Version:
    return Version(
        id=VersionId(id_), digest="d", fingerprint="f", salt=Salt(id_), document_tokens=10, prefix_tokens=16, state=state
    )


CATALOGS = st.builds(
    lambda keys: Catalog(document(id_, owner) for id_, owner in keys),
    st.sets(st.tuples(st.sampled_from("abcd"), st.sampled_from(OWNERS))),
)


def volumes(of: str, *states: VersionState, owner: str = "acme") -> list[Document]:
    """Volumes of a document, ready ones as `current`."""
    return [
        replace(
            document(f"{of}#{number}", owner),
            part=Part(DocumentId(of), "Rent"),
            **{"current" if state is VersionState.READY else "incoming": version(f"{owner} {of} {number}", state)},
        )
        for number, state in enumerate(states)
    ]


def test_a_document_in_volumes_is_seen_as_one_and_answered_by_them() -> None:
    parts = volumes("a", VersionState.READY, VersionState.READY)
    whole = replace(document("a"), volumes=(parts[1].id, parts[0].id))
    catalog = Catalog([*parts, whole, document("b")])
    assert [seen.id for seen in catalog.visible_to(Viewer(TenantId("acme")))] == ["a", "b"]
    assert catalog.answering(whole) == (parts[1], parts[0])
    assert [part.name for part in parts] == ["a", "a"]
    with pytest.raises(NotFound):
        catalog.find(Viewer(TenantId("acme")), parts[0].id)
    # A version of its own answers before the volumes that are still there, and one to come does not.
    plain = replace(whole, current=version("v", VersionState.READY))
    assert catalog.answering(plain) == (plain,)
    coming = replace(whole, incoming=version("v", VersionState.PENDING))
    assert catalog.answering(coming) == (parts[1], parts[0])
    assert catalog.answering(document("b")) == (document("b"),)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("ready ready", "ready"),
        ("ready pending", "reading"),
        ("pending pending", "pending"),
        ("ready failed", "failed"),
        ("", "failed"),
    ],
)
def test_the_state_of_a_document_in_volumes_is_that_of_all_together(states: str, expected: str) -> None:
    parts = volumes("a", *map(VersionState, states.split()))
    ids = tuple(part.id for part in parts)
    whole = replace(document("a"), coming=ids)
    assert Catalog([*parts, whole]).state(whole) == expected
    answering = replace(whole, volumes=ids, coming=(DocumentId("a#9"),))
    assert Catalog([*parts, answering]).state(answering) == expected


def test_a_volumes_id_tells_its_content_and_cannot_be_given() -> None:
    one = volume_id(DocumentId("a"), "text")
    assert one == volume_id(DocumentId("a"), "text") != volume_id(DocumentId("a"), "other")
    with pytest.raises(InvalidRequest):
        check_id(one)


def test_a_tenant_sees_its_own_documents_and_the_shared_ones() -> None:
    catalog = Catalog([document("b"), document("a", SHARED), document("c", "globex")])
    assert [(d.owner, d.id) for d in catalog.visible_to(Viewer(TenantId("acme")))] == [(SHARED, "a"), ("acme", "b")]


def test_a_tenants_own_document_stands_before_the_shared_one_of_its_id() -> None:
    catalog = Catalog([document("a", SHARED), document("a")])
    assert [d.owner for d in catalog.visible_to(Viewer(TenantId("acme")))] == ["acme"]
    assert catalog.find(Viewer(TenantId("acme")), "a").owner == "acme"
    assert catalog.find(Viewer(TenantId("globex")), "a").owner == SHARED


@settings(max_examples=50)
@given(catalog=CATALOGS, tenant=st.sampled_from([TenantId("acme"), TenantId("globex"), TenantId("new")]))
def test_what_is_visible_is_what_can_be_found(catalog: Catalog, tenant: TenantId) -> None:
    visible = catalog.visible_to(Viewer(tenant))
    assert {d.owner for d in visible} <= {Owner(tenant), SHARED}
    assert [d.id for d in visible] == sorted({d.id for d in visible})
    for id_ in "abcd":
        expected = next((d for d in visible if d.id == id_), None)
        if expected is not None:
            assert catalog.find(Viewer(tenant), id_) is expected
        else:
            with pytest.raises(NotFound):
                catalog.find(Viewer(tenant), id_)


def test_a_forbidden_document_is_refused_in_the_words_of_an_unknown_one() -> None:
    words = []
    for catalog in (Catalog([document("plan", "globex")]), Catalog()):
        with pytest.raises(NotFound) as caught:
            catalog.find(Viewer(TenantId("acme")), "plan")
        words.append((str(caught.value), caught.value.param))
    assert words[0] == words[1]
    assert words[0][1] == "document"


def test_changing_a_catalog_makes_another_one() -> None:
    before = Catalog([document("a")], generation=3)
    after = before.with_document(document("b"))
    replaced = after.with_document(Document(owner=Owner("acme"), id=DocumentId("a"), descriptor=Descriptor(title="New")))
    gone = after.without(Owner("acme"), DocumentId("a"))
    assert [d.id for d in before] == ["a"]
    assert sorted(d.id for d in after) == ["a", "b"]
    assert len(replaced) == 2
    assert replaced.find(Viewer(TenantId("acme")), "a").descriptor.title == "New"
    assert [d.id for d in gone] == ["b"]
    assert [c.generation for c in (before, after, replaced, gone)] == [3, 4, 5, 5]
    assert repr(gone) == "<Catalog 5: 1 documents>"


def test_removing_an_absent_document_changes_nothing_but_the_generation() -> None:
    before = Catalog([document("a")])
    assert list(before.without(SHARED, DocumentId("a"))) == list(before)


def test_the_ready_version_answers_until_another_takes_its_place() -> None:
    ready, reading = version("1", VersionState.READY), version("2", VersionState.READING)
    assert document("a", current=ready, incoming=reading).answering is ready
    assert document("a", incoming=reading).answering is reading
    assert document("a").answering is None


def test_a_document_expires_at_its_time_and_one_without_never() -> None:
    assert [replace(document("a"), expires_at=100.0).expired(now) for now in (99.9, 100.0, 101.0)] == [False, True, True]
    assert not document("a").expired(1e12)
    assert not replace(document("a"), pinned=True).expired(1e12)


@pytest.mark.parametrize("id_", ["a", "0", "lease-2024.v1_x", "a" * 100])
def test_usable_ids_are_kept_as_they_are(id_: str) -> None:
    assert check_id(id_) == id_


@pytest.mark.parametrize("id_", ["", "A", "-a", ".a", "a" * 101, "a/b", "a b", "ä", "a\n", "*", "..", "a\0"])
def test_ids_that_are_unsafe_somewhere_are_refused(id_: str) -> None:
    with pytest.raises(InvalidRequest, match="tenant id") as caught:
        check_id(id_, what="tenant")
    assert caught.value.param == "id"


@settings(max_examples=50)
@given(st.text(max_size=120))
def test_a_slug_is_an_id_or_nothing(title: str) -> None:
    made = slug(title)
    assert made == "" or check_id(made) == made


def test_a_slug_keeps_the_words() -> None:
    assert slug("Apartment Lease (2024).md") == "apartment-lease-2024-md"
    assert slug("Über uns – Café") == "uber-uns-cafe"
    assert slug("第二章") == ""
    assert not slug("a" * 79 + " b").endswith("-")


def test_a_digest_names_the_content() -> None:
    assert content_digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert content_digest("a") != content_digest("b")


FIELD = st.text(string.ascii_lowercase + "|*.", min_size=1, max_size=4)
FIELDS = st.tuples(st.binary(min_size=1, max_size=4), FIELD, FIELD, FIELD, FIELD)


def salt_of(fields: tuple[bytes, str, str, str, str]) -> Salt:
    secret, owner, id_, digest, fingerprint = fields
    return version_salt(secret, Owner(owner), DocumentId(id_), digest, fingerprint)


@settings(max_examples=50)
@given(one=FIELDS, other=FIELDS)
def test_versions_share_a_salt_only_if_everything_is_the_same(
    one: tuple[bytes, str, str, str, str], other: tuple[bytes, str, str, str, str]
) -> None:
    # A key shorter than the hash's block is padded with zeros: HMAC itself can't tell b"a" from b"a\0".
    same = (one[0].rstrip(b"\0"), *one[1:]) == (other[0].rstrip(b"\0"), *other[1:])
    assert (salt_of(one) == salt_of(other)) is same


def test_the_fields_of_a_salt_do_not_run_into_one_another() -> None:
    assert salt_of((b"s", "ab", "c", "d", "e")) != salt_of((b"s", "a", "bc", "d", "e"))


def test_a_salt_is_one_that_the_engine_accepts() -> None:
    salt = salt_of((b"secret", "acme", "lease", "digest", "fingerprint"))
    assert len(salt) == 64
    assert set(salt) <= set("0123456789abcdef")


def test_a_salt_stays_the_same_over_releases() -> None:
    """A changed formula would orphan everybody's KV."""
    golden = "103b54140b7c654304d652c116178c6a264b7a80e7c9bca0fcf74e08d805f73f"
    assert salt_of((b"secret", "acme", "lease", "digest", "fingerprint")) == golden
