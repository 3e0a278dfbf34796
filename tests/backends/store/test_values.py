"""Whatever a document holds comes back from every `Store` as it was."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.base import Content, Store
from router.documents import Descriptor, Document, Version, VersionState

# Every code point, lone surrogates too; NUL, backslashes and what looks like an escape more often than chance has them.
texts = st.text(st.characters(exclude_categories=())) | st.text(st.sampled_from("\0\\0123abcd\"'\ud800\udc00é\u2028"))
tuples = st.lists(texts, max_size=4).map(tuple)
times = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**31 - 1)
versions = st.builds(
    Version,
    id=st.uuids().map(str),
    digest=texts,
    fingerprint=texts,
    salt=texts,
    document_tokens=counts,
    prefix_tokens=counts,
    state=st.sampled_from(VersionState),
    read_tokens=counts,
    error=st.none() | texts,
    created_at=times,
)
descriptors = st.builds(Descriptor, title=texts, summary=texts, tags=tuples, questions=tuples)
documents = st.builds(
    Document,
    owner=texts,
    id=st.uuids().map(str),
    descriptor=descriptors,
    source=texts,
    incoming=versions,
    created_at=times,
    updated_at=times,
    pinned=st.booleans(),
    ttl_s=st.none() | times,
    expires_at=st.none() | times,
)
contents = st.builds(Content, text=texts, prefix_ids=st.binary(), vectors=st.binary(), embedder=texts)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(new=documents, content=contents)
async def test_every_value_comes_back_as_it_was(store: Store, new: Document, content: Content) -> None:
    # The examples share one store, so each clears away the one before it.
    for before in await store.documents():
        await store.remove_document(before.owner, before.id)
    for left in await store.unlinked_versions():
        await store.remove_version(left.id)
    assert new.incoming is not None
    await store.add_version(new, new.incoming, content)
    assert await store.documents() == [new]
    assert await store.content(new.incoming.id) == content
