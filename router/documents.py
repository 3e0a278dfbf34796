"""The catalog's values: documents, their versions, and an immutable snapshot of all of them.

Owns the vocabulary (see the README) and who sees what. Must not do I/O; the database's rows become these
values in `backends/store`, changes are made by `gateway/shelf/documents.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NewType

import msgspec

from router.errors import InvalidRequest, NotFound

TenantId = NewType("TenantId", str)
Owner = NewType("Owner", str)
DocumentId = NewType("DocumentId", str)
VersionId = NewType("VersionId", str)
Salt = NewType("Salt", str)

SHARED = Owner("*")
"""The owner of documents that every tenant may ask. No tenant can be called this: `ID_PATTERN` has no `*`."""

ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
"""What documents and tenants may be called: safe in a URL, a log line and a metric's label."""


class VersionState(StrEnum):
    PENDING = "pending"
    READING = "reading"
    READY = "ready"
    FAILED = "failed"


class Descriptor(msgspec.Struct, frozen=True):
    """What routing is told of a document by people; passages come from the text itself (`router/descriptors.py`)."""

    title: str
    summary: str = ""
    tags: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    """What else it is called: contract numbers, product names. A question that has one goes to this document."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One content of a document, as one engine reads it.

    `prefix_tokens` counts the whole padded prefix (a multiple of the chunk size), `document_tokens` the
    document's own text; `read_tokens` is how much of the prefix has been prefilled so far.
    """

    id: VersionId
    digest: str
    fingerprint: str
    salt: Salt
    document_tokens: int
    prefix_tokens: int
    state: VersionState = VersionState.PENDING
    read_tokens: int = 0
    error: str | None = None
    created_at: float = 0.0


class Part(msgspec.Struct, frozen=True):
    """What makes a document a volume: the document that it is a part of, and the headings that it spans."""

    of: DocumentId
    headings: str


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document: `current` is the version that answers, `incoming` the one being read to replace it.

    One that is longer than the model reads is kept in volumes, documents of their own that have a `part`: `volumes` are
    those that answer for it while it has no `current`, `coming` those being read to replace them. Tenants see the whole alone.

    `expires_at` (seconds since the epoch) is until when its KV is kept, None for without end; `ttl_s` is the time to
    live that it came from, None where the moment itself was given. A pinned document has neither: its KV is kept
    whatever else needs the room. `router/retention.py` changes the three.
    """

    owner: Owner
    id: DocumentId
    descriptor: Descriptor
    source: str = "api"
    current: Version | None = None
    incoming: Version | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    pinned: bool = False
    ttl_s: float | None = None
    expires_at: float | None = None
    part: Part | None = None
    volumes: tuple[DocumentId, ...] = ()
    coming: tuple[DocumentId, ...] = ()

    @property
    def name(self) -> DocumentId:
        """The id that tenants know it by: of a volume the whole's."""
        return self.part.of if self.part is not None else self.id

    def expired(self, now: float) -> bool:
        """Whether no KV is to be kept of it any more. Text and catalog entry stay, and questions are answered cold."""
        return self.expires_at is not None and now >= self.expires_at

    @property
    def versions(self) -> tuple[Version, ...]:
        """Those that it has: the one that answers, and the one that is being read."""
        return tuple(version for version in (self.current, self.incoming) if version is not None)

    @property
    def answering(self) -> Version | None:
        """The version to ask now: the ready one, else the one being read (its unread part is prefilled by the question)."""
        return self.current or self.incoming


Key = tuple[Owner, DocumentId]


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

    def visible_to(self, tenant: TenantId) -> tuple[Document, ...]:
        """The tenant's own documents and the shared ones that none of its own stands before, in a stable order. No volumes."""
        own = Owner(tenant)
        whole = (d for d in self if d.part is None)
        seen = [d for d in whole if d.owner == own or (d.owner == SHARED and (own, d.id) not in self._documents)]
        return tuple(sorted(seen, key=lambda d: d.id))

    def find(self, tenant: TenantId, document_id: str) -> Document:
        """The tenant's own document of this id, else the shared one.

        Raises NotFound with the same words whether it does not exist or belongs to somebody else.
        """
        found = self.get(Owner(tenant), DocumentId(document_id)) or self.get(SHARED, DocumentId(document_id))
        if found is None or found.part is not None:
            raise NotFound(
                f"No document {document_id!r} in your catalog. GET /v1/documents lists what you may ask.", param="document"
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


def check_id(value: str, *, what: str = "document") -> str:
    """`value`, if it can be an id. Raises InvalidRequest that says what an id may be."""
    if not ID_PATTERN.fullmatch(value):
        raise InvalidRequest(
            f"{value[:120]!r} can't be a {what} id: use 1 to 100 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit.",
            param="id",
        )
    return value


def slug(title: str) -> str:
    """An id made from a title or file name; empty where nothing usable is left."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()  # ü is u and a mark
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:80].strip("-")


def volume_id(document_id: DocumentId, text: str) -> DocumentId:
    """A volume's id tells its content: one that a new text has as well is met again. No tenant can give such an id (`#`)."""
    return DocumentId(f"{document_id}#{content_digest(text)[:16]}")


def content_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def version_salt(secret: bytes, owner: Owner, document_id: DocumentId, digest: str, fingerprint: str) -> Salt:
    """The engine's `cache_salt` of a version: hex HMAC-SHA256 over owner, document, content and engine.

    A salt of its own for each version isolates tenants, and any change of content or engine makes the old KV
    unreachable. The fields can't run into one another: NUL occurs in none of them.
    """
    message = "\0".join((owner, document_id, digest, fingerprint)).encode()
    return Salt(hmac.new(secret, message, hashlib.sha256).hexdigest())
