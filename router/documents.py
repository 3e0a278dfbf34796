"""The catalog's values: documents and their versions.

Owns the vocabulary (see the README). Must not do I/O; the database's rows become these
values in `backends/store`, changes are made by `gateway/shelf/documents.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, NewType

import msgspec
from msgspec import Meta

from router.characters import check_shown
from router.errors import InvalidRequest

TenantId = NewType("TenantId", str)
Owner = NewType("Owner", str)
DocumentId = NewType("DocumentId", str)
VersionId = NewType("VersionId", str)
Salt = NewType("Salt", str)

SHARED = Owner("*")
"""The owner of documents that every tenant may ask. No tenant can be called this: `ID_PATTERN` has no `*`."""

ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
"""What documents and tenants may be called: safe in a URL, a log line and a metric's label."""


Title = Annotated[str, Meta(min_length=1, max_length=300)]
Summary = Annotated[str, Meta(max_length=4000)]
Words = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=500)], ...], Meta(max_length=50)]
"""Tags, sample questions or aliases."""


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


def check_descriptor(
    *, title: str = "", summary: str = "", tags: Iterable[str] = (), questions: Iterable[str] = (), aliases: Iterable[str] = ()
) -> None:
    """Raises InvalidRequest for what people must not say of a document: characters that are not shown."""
    check_shown((title,), what="title")
    check_shown((summary,), what="summary", lines=True)
    check_shown(tags, what="tags")
    check_shown(questions, what="questions", lines=True)
    check_shown(aliases, what="aliases")


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

    `generated` are the descriptor's fields that the engine wrote, `edited` those that it may not: `router/describing.py`'s.
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
    generated: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
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
