"""What `/v1/documents` and `/v1/jobs` take and give: the shapes of their JSON, and a document's as a client sees it.

Must not act. `gateway/api/documents_api.py` does with them.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.jobs_api import JobView, edition_view, reading_view
from gateway.shelf.documents import Shelf
from gateway.tiers.uses import Uses
from router.documents import (
    SHARED,
    Descriptor,
    Document,
    Owner,
    Summary,
    TenantId,
    Title,
    Version,
    VersionState,
    Words,
    check_descriptor,
)
from router.residency import Ledger
from router.retention import MAX_TTL_S, Retention

Ttl = Annotated[float, Meta(gt=0, le=MAX_TTL_S)]
Moment = Annotated[datetime.datetime, Meta(tz=True)]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """How long a document's KV is kept. What is left out stays as it is; of a new document, it is kept while there is room.

    `pinned`: whatever else needs the room. `ttl_s` and `expire_at` (RFC 3339) say in two ways until when, null for
    without end; a pinned document has neither.
    """

    pinned: bool | UnsetType = UNSET
    ttl_s: Ttl | UnsetType | None = UNSET
    expire_at: Moment | UnsetType | None = UNSET

    def retention(self) -> Retention:
        at = self.expire_at
        expires_at = at.timestamp() if isinstance(at, datetime.datetime) else at
        return Retention(pinned=self.pinned, ttl_s=self.ttl_s, expires_at=expires_at)


class NewDocument(Kept, frozen=True, forbid_unknown_fields=True):
    """A document to be added, or to replace the one of this id."""

    text: str
    id: str | None = None
    title: Title | None = None
    summary: Summary = ""
    tags: Words = ()
    questions: Words = ()
    aliases: Words = ()
    shared: bool = False

    def __post_init__(self) -> None:
        check_descriptor(
            title=self.title or "", summary=self.summary, tags=self.tags, questions=self.questions, aliases=self.aliases
        )


class Changes(Kept, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What may be changed of a document without reading it again."""

    title: Title | UnsetType = UNSET
    summary: Summary | UnsetType = UNSET
    tags: Words | UnsetType = UNSET
    questions: Words | UnsetType = UNSET
    aliases: Words | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_descriptor(**self.descriptor())

    def descriptor(self) -> dict[str, Any]:
        """The descriptor's fields that are given."""
        given = {name: getattr(self, name) for name in Descriptor.__struct_fields__}
        return {name: value for name, value in given.items() if value is not UNSET}


class UsageView(msgspec.Struct, frozen=True):
    """What a document was asked, and where the tokens of the prompts came from: the last three add up to `prompt_tokens`."""

    questions: int
    prompt_tokens: int
    recomputed_tokens: int
    restored_tokens: int
    """From RAM or disk."""
    reused_tokens: int
    """From a worker's GPU tier."""
    last_asked_at: float | None


class TierView(msgspec.Struct, frozen=True):
    """What one tier holds of a document: a share of its prefix (0 to 1) without a gap from its beginning, and bytes."""

    tier: str
    where: str
    """The worker for the GPU tier, the host for the others."""
    share: float
    size_bytes: int


class VolumeView(msgspec.Struct, frozen=True):
    """One of the pieces of a document that is longer than the model reads."""

    number: int
    id: str
    title: str
    state: VersionState
    document_tokens: int
    prefix_tokens: int
    tiers: list[TierView]


class DocumentView(msgspec.Struct, frozen=True):
    id: str
    title: str
    summary: str
    tags: tuple[str, ...]
    questions: tuple[str, ...]
    aliases: tuple[str, ...]
    generated: tuple[str, ...]
    """Which of `summary` and `questions` the engine wrote. Whoever changes one makes it theirs, and it is never written again."""
    shared: bool
    source: str
    state: VersionState
    """ready: it answers (perhaps an older version, while `job` reads a newer one)."""
    stale: bool
    """It was read by another engine, model or layout: until it is read again, questions read it themselves."""
    pinned: bool
    ttl_s: float | None
    expire_at: datetime.datetime | None
    """Until when its KV is kept, RFC 3339 in UTC; null for without end."""
    expired: bool
    """Its KV is kept no longer, and questions are answered cold, until it is given a time to come."""
    document_tokens: int
    prefix_tokens: int
    job: JobView | None
    usage: UsageView | None
    """null for a shared document: who else asks it is not a tenant's business."""
    tiers: list[TierView]
    """Where its KV is believed to be."""
    volumes: list[VolumeView]
    """Those that answer, else those that are to; none of a document that is read as a whole."""
    created_at: float
    updated_at: float
    object: Literal["document"] = "document"


class DocumentList(msgspec.Struct, frozen=True):
    data: list[DocumentView]
    object: Literal["list"] = "list"


class Deleted(msgspec.Struct, frozen=True):
    id: str
    deleted: bool = True
    object: Literal["document"] = "document"


class DocumentViews:
    """Makes them, from what the gateway knows of a document."""

    def __init__(self, shelf: Shelf, ledger: Ledger, uses: Uses) -> None:
        self._shelf = shelf
        self._ledger = ledger
        self._uses = uses

    def of(self, document: Document, tenant: TenantId) -> DocumentView:
        """The document as this tenant sees it."""
        catalog, descriptor, expires_at = self._shelf.catalog, document.descriptor, document.expires_at
        in_volumes = () if document.current is not None else catalog.parts(document, document.volumes or document.coming)
        parts = in_volumes or (document,)
        versions = [version for part in parts if (version := part.answering) is not None]
        volumes = [self._volume(document, part, number, len(parts)) for number, part in enumerate(in_volumes, 1)]
        return DocumentView(
            id=document.id,
            title=descriptor.title,
            summary=descriptor.summary,
            tags=descriptor.tags,
            questions=descriptor.questions,
            aliases=descriptor.aliases,
            generated=document.generated,
            shared=document.owner == SHARED,
            source=document.source,
            state=catalog.state(document),
            stale=any(self._shelf.is_stale(part) for part in parts),
            pinned=document.pinned,
            ttl_s=document.ttl_s,
            expire_at=datetime.datetime.fromtimestamp(expires_at, datetime.UTC) if expires_at is not None else None,
            expired=document.expired(self._shelf.now()),
            document_tokens=sum(version.document_tokens for version in versions),
            prefix_tokens=sum(version.prefix_tokens for version in versions),
            job=reading_view(document, document.incoming) if document.incoming is not None else edition_view(catalog, document),
            usage=self._usage(document, tenant),
            tiers=self._tiers(versions),
            volumes=volumes,
            created_at=document.created_at,
            updated_at=document.updated_at,
        )

    def _volume(self, document: Document, part: Document, number: int, count: int) -> VolumeView:
        version = part.answering
        headings = part.part.headings if part.part is not None else ""
        return VolumeView(
            number=number,
            id=part.id,
            title=f"{document.descriptor.title} ({number} of {count}): {headings}",
            state=version.state if version is not None else VersionState.FAILED,
            document_tokens=version.document_tokens if version is not None else 0,
            prefix_tokens=version.prefix_tokens if version is not None else 0,
            tiers=self._tiers([version] if version is not None else []),
        )

    def _tiers(self, versions: Sequence[Version]) -> list[TierView]:
        """What each tier holds of these together."""
        total = sum(version.prefix_tokens for version in versions)
        found: dict[tuple[str, str], tuple[float, int]] = {}
        for version in versions:
            for held in self._ledger.holdings(version):
                tokens, size_bytes = found.get((held.tier.value, held.where), (0.0, 0))
                found[held.tier.value, held.where] = tokens + held.share * version.prefix_tokens, size_bytes + held.size_bytes
        return [TierView(tier, where, round(tokens / total, 4), size) for (tier, where), (tokens, size) in found.items()]

    def _usage(self, document: Document, tenant: TenantId) -> UsageView | None:
        if document.owner != Owner(tenant):
            return None
        use = self._uses.of((document.owner, document.id))
        tokens = use.tokens
        return UsageView(use.questions, tokens.asked, tokens.recomputed, tokens.restored, tokens.reused, use.last_at or None)
