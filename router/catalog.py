"""The catalog: an immutable snapshot of every document, and who sees what of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from router.documents import SHARED, Document, DocumentId, Key, Owner, Salt, Version, VersionState
from router.errors import NotFound
from router.viewers import Viewer


class _Index(msgspec.Struct):
    """What is looked up in a catalog otherwise than by a document's key."""

    salts: dict[Salt, tuple[Document, Version]]
    pinned: dict[Key, Document]
    largest_tokens: int | None
    """None where the largest has just gone."""

    def replaced(self, before: Document | None, after: Document | None) -> _Index:
        """The index of a catalog in which `after` has come in the place of `before`."""
        index = _Index(self.salts.copy(), self.pinned.copy(), self.largest_tokens)
        if before is not None:
            for version in before.versions:
                index.salts.pop(version.salt, None)
                if version.prefix_tokens == index.largest_tokens:
                    index.largest_tokens = None
            index.pinned.pop((before.owner, before.id), None)
        if after is not None:
            index.take(after)
        return index

    def take(self, document: Document) -> None:
        for version in document.versions:
            self.salts[version.salt] = (document, version)
            if self.largest_tokens is not None:
                self.largest_tokens = max(self.largest_tokens, version.prefix_tokens)
        if document.pinned:
            self.pinned[document.owner, document.id] = document


class Catalog:
    """An immutable snapshot of every document. Changing it makes another one.

    Changes are many, as readings tell of their progress, and the snapshots large: whatever is looked up at every question
    is kept in an index, which is made at the first look and handed on from one snapshot to the next.
    """

    __slots__ = ("_documents", "_index", "generation")

    def __init__(self, documents: Iterable[Document] = (), *, generation: int = 0) -> None:
        self._documents = {(d.owner, d.id): d for d in documents}
        self._index: _Index | None = None
        self.generation = generation

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents.values())

    def __repr__(self) -> str:
        return f"<Catalog {self.generation}: {len(self)} documents>"

    def get(self, owner: Owner, document_id: DocumentId) -> Document | None:
        return self._documents.get((owner, document_id))

    def visible_to(self, viewer: Viewer) -> tuple[Document, ...]:
        """The tenant's own documents and the shared ones that none of its own stands before, as far as the viewer may see them;
        in a stable order. No volumes."""
        own = Owner(viewer.tenant)
        whole = (d for d in self if d.part is None and viewer.permits(d))
        seen = [d for d in whole if d.owner == own or (d.owner == SHARED and (own, d.id) not in self._documents)]
        return tuple(sorted(seen, key=lambda d: d.id))

    def find(self, viewer: Viewer, document_id: str) -> Document:
        """The tenant's own document of this id, else the shared one.

        Raises NotFound with the same words whether it does not exist, belongs to somebody else or is kept from the viewer.
        """
        found = self.get(Owner(viewer.tenant), DocumentId(document_id)) or self.get(SHARED, DocumentId(document_id))
        if found is None or found.part is not None or not viewer.permits(found):
            raise NotFound(
                f"No document {document_id[:120]!r} in your catalog. GET /v1/documents lists what you may ask.", param="document"
            )
        return found

    def answering(self, document: Document) -> tuple[Document, ...]:
        """The documents whose KV answers for it: itself, or its volumes in the text's order."""
        return (document,) if document.current is not None else self.parts(document, document.volumes) or (document,)

    def state(self, document: Document) -> VersionState:
        """How the version that answers is; of volumes that answer or are to come, all together."""
        if document.current is not None or not (volumes := document.volumes or document.coming):
            return document.answering.state if document.answering is not None else VersionState.FAILED
        versions = [part.answering for part in self.parts(document, volumes)]
        states = {version.state if version is not None else VersionState.FAILED for version in versions}
        if VersionState.FAILED in states or not states:
            return VersionState.FAILED
        return states.pop() if len(states) == 1 else VersionState.READING

    def parts(self, document: Document, volumes: Iterable[DocumentId]) -> tuple[Document, ...]:
        """These of its volumes."""
        return tuple(found for volume in volumes if (found := self.get(document.owner, volume)) is not None)

    # --- what is looked up at every question

    def of_salt(self, salt: Salt) -> tuple[Document, Version] | None:
        """The version that this salt is, and the document that has it; None for one that no document has."""
        return self._indexed().salts.get(salt)

    @property
    def pinned(self) -> Iterable[Document]:
        return self._indexed().pinned.values()

    @property
    def largest_tokens(self) -> int:
        """Of the largest version's prefix."""
        index = self._indexed()
        if index.largest_tokens is None:
            index.largest_tokens = max((version.prefix_tokens for _, version in index.salts.values()), default=0)
        return index.largest_tokens

    def _indexed(self) -> _Index:
        if self._index is None:
            self._index = _Index({}, {}, 0)
            for document in self:
                self._index.take(document)
        return self._index

    # --- the next snapshot

    def with_document(self, document: Document) -> Catalog:
        return self._replaced((document.owner, document.id), document)

    def without(self, owner: Owner, document_id: DocumentId) -> Catalog:
        return self._replaced((owner, document_id), None)

    def _replaced(self, key: Key, after: Document | None) -> Catalog:
        """With this document, or none, in the place of the key's."""
        documents = self._documents.copy()
        before = documents.pop(key, None)
        if after is not None:
            documents[key] = after
        catalog = Catalog(generation=self.generation + 1)
        catalog._documents = documents
        if self._index is not None:
            catalog._index = self._index.replaced(before, after)
        return catalog
