"""The catalog's index: kept from snapshot to snapshot, it says what a look through all documents would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.catalog import Catalog
from router.documents import Descriptor, Document, DocumentId, Owner, Salt, Version, VersionId

OWNER = Owner("acme")
NAMES = "abcd"

Change = tuple[str, tuple[int, ...] | None, bool]
CHANGES = st.lists(
    st.tuples(st.sampled_from(NAMES), st.none() | st.lists(st.integers(1, 5), max_size=2).map(tuple), st.booleans()), max_size=12
)
"""A document's name, the sizes of its versions (None: it is removed), whether it is pinned."""


def document(name: str, sizes: tuple[int, ...], number: int = 0, *, pinned: bool = False) -> Document:
    versions = [
        Version(
            id=VersionId(f"{name}{number}{place}"),
            digest="",
            fingerprint="",
            salt=Salt(f"{name}{number}{place}"),
            document_tokens=size,
            prefix_tokens=size,
        )
        for place, size in enumerate(sizes)
    ]
    current, incoming = (*versions, None, None)[:2]
    return Document(
        owner=OWNER, id=DocumentId(name), descriptor=Descriptor(name), current=current, incoming=incoming, pinned=pinned
    )


def changed(catalog: Catalog, number: int, change: Change) -> Catalog:
    name, sizes, pinned = change
    if sizes is None:
        return catalog.without(OWNER, DocumentId(name))
    return catalog.with_document(document(name, sizes, number, pinned=pinned))


def indexed(catalog: Catalog) -> object:
    salts = [Salt(f"{name}{number}{place}") for name in NAMES for number in range(12) for place in range(2)]
    return [catalog.of_salt(salt) for salt in salts], sorted(d.id for d in catalog.pinned), catalog.largest_tokens


@given(CHANGES)
def test_an_index_that_was_handed_on_is_as_one_made_anew(changes: list[Change]) -> None:
    catalog = Catalog()
    for number, change in enumerate(changes):
        before, seen = catalog, indexed(Catalog(catalog))
        catalog = changed(catalog, number, change)
        assert indexed(catalog) == indexed(Catalog(catalog))
        assert indexed(before) == seen  # a snapshot does not change


def test_an_empty_catalog_has_nothing() -> None:
    assert (Catalog().largest_tokens, list(Catalog().pinned), Catalog().of_salt(Salt("a"))) == (0, [], None)


def test_the_largest_goes_and_the_next_is_it() -> None:
    catalog = Catalog([document("a", (3,)), document("b", (7, 9)), document("c", (8,))])
    assert catalog.largest_tokens == 9
    assert catalog.without(OWNER, DocumentId("b")).largest_tokens == 8
    assert catalog.with_document(document("b", (7,), 1)).largest_tokens == 8
