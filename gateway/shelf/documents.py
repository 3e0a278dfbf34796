"""The shelf: the catalog and everything that changes it. Each change is stored first and seen by all afterwards.

Owns the snapshot that questions read (`catalog`) and the making of versions. Reading them is `gateway/ingestion/ingestion.py`'s,
clearing what nothing points to any more `gateway/upkeep/reaper.py`'s; both wait for `change`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from msgspec.structs import replace

from backends.base import Store
from backends.records import AuditEntry
from gateway.shelf.charges import Payer, ReadingCharges
from gateway.shelf.classifier import Classifier
from gateway.shelf.reading import Reading, readable
from router.catalog import Catalog
from router.describing import Written, changed, declared, described, of_new_content
from router.documents import Descriptor, Document, DocumentId, Key, Owner, Part, Version, VersionId, VersionState, content_digest
from router.errors import DocumentTooLong, NotFound, StoreUnavailable
from router.retention import KEPT, Retention, is_new, refreshed, retain

log = structlog.get_logger("documents")


class Shelf:
    def __init__(
        self,
        store: Store,
        classifier: Classifier,
        reading: Reading,
        need_room: Callable[[Catalog, Owner, int], Awaitable[None]],
        charges: ReadingCharges,
        *,
        now: Callable[[], float],
    ) -> None:
        """`need_room` raises StorageFull where no host could keep a document of this owner and so many tokens."""
        self.catalog = Catalog()
        self._store = store
        self._classifier = classifier
        self._reading = reading
        self._need_room = need_room
        self._charges = charges
        self.now = now
        self._locks: defaultdict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.change = asyncio.Event()
        """Set at the next change, progress of readings included. Take it, look at the catalog, then wait for it."""
        self.closed = False

    def __repr__(self) -> str:
        return f"<Shelf {self.catalog!r}>"

    def close(self) -> None:
        """The gateway is ending: whoever waits for changes is told, and should leave."""
        self.closed = True
        self._announce()

    async def load(self) -> None:
        """Take the stored catalog up. What was to be read and can't be as it is stored is made anew from its text.

        A version that answered and is stale now stays: `renew` replaces it, at the first question or in its turn.
        """
        self.catalog = Catalog(await self._store.documents())
        self._announce()
        for document in self.catalog:
            if document.current is not None:
                await self._classifier.recall(document.current.id, document.descriptor)
            version = document.incoming
            if version is not None and (version.state is VersionState.FAILED or not self._reading.reads(version)):
                await self._make_anew(document, version)

    def is_stale(self, document: Document) -> bool:
        """Whether the version that answers was read by another engine: its KV can't be used any more."""
        return document.current is not None and not self._reading.reads(document.current)

    async def renew(self, owner: Owner, document_id: DocumentId) -> Version | None:
        """The version that answers for a document that is stale: its content, to be read by the engine as it is now.

        Made if it isn't there yet; None where the document was removed. Raises StoreUnavailable.
        """
        document = self.catalog.get(owner, document_id)
        if document is not None and document.incoming is None and document.current is not None and self.is_stale(document):
            log.info("version_stale", document=document.id, reason="the engine's fingerprint changed")
            await self._make_anew(document, document.current)
            document = self.catalog.get(owner, document_id)
        return (document.incoming or document.current) if document is not None else None

    async def put(
        self,
        owner: Owner,
        document_id: DocumentId,
        raw: str,
        descriptor: Descriptor,
        *,
        source: str = "api",
        retention: Retention = KEPT,
        needs_room: bool = True,
        part: Part | None = None,
        audit: Sequence[AuditEntry] = (),
        payer: Payer | None = None,
    ) -> Document:
        """Make this text the document's content: a new document, a new version, or nothing where it is the same.

        The version that answers goes on answering until the new one is ready. Raises InvalidRequest for an empty
        text and a retention that can't be, NotText for a text with NULs, DocumentTooLong for one that leaves no room to
        answer, StorageFull where the disk tier has none (unless its room isn't needed at once), and BudgetSpent where `payer`
        can't pay for its reading. `part`: of a new volume. `audit`: what is told of it, stored with it, here and below.
        """
        text = readable(raw)
        digest = content_digest(text)
        async with self._locks[owner, document_id]:
            before = self.catalog.get(owner, document_id)
            if before is not None and (same := self._unchanged(before, digest)) is not None:
                now = self.now()
                same = retain(replace(declared(same, descriptor), source=source), retention, now=now)
                if same == before:
                    return before
                is_told = same.descriptor != before.descriptor or same.incoming is not before.incoming
                return await self._save(replace(same, updated_at=now), text if is_told else "", audit)
            before = before or Document(owner=owner, id=document_id, descriptor=descriptor, part=part)
            return await self._add(before, text, descriptor, source, retention, needs_room=needs_room, audit=audit, payer=payer)

    async def amend(
        self,
        owner: Owner,
        document_id: DocumentId,
        *,
        retention: Retention = KEPT,
        audit: Sequence[AuditEntry] = (),
        **descriptor: Any,
    ) -> Document:
        """Change fields of the descriptor, and the retention. Raises NotFound, and InvalidRequest for what can't be."""
        async with self._locks[owner, document_id]:
            before = self.catalog.get(owner, document_id)
            if before is None:
                raise NotFound(f"No document {document_id!r}.", param="document")
            now = self.now()
            document = replace(changed(retain(before, retention, now=now), descriptor), updated_at=now)
            version = document.answering if descriptor else None  # retention is nothing that routing has to learn
            text = (await self._store.content(version.id)).text if version is not None else ""
            return await self._save(document, text, audit)

    async def describe(self, owner: Owner, document_id: DocumentId, version_id: VersionId, written: Written) -> None:
        """Take in what the engine wrote of a version, where it is still lacking. Nothing happens to one that answers no more."""
        async with self._locks[owner, document_id]:
            before = self.catalog.get(owner, document_id)
            if before is None or before.current is None or before.current.id != version_id:
                return
            document = described(before, written)
            if document != before:
                text = (await self._store.content(version_id)).text
                await self._save(replace(document, updated_at=self.now()), text)

    async def refresh(self, owner: Owner, document_id: DocumentId, now: float) -> None:
        """A question was answered from the document's KV: its TTL counts from now, to the grain that `refreshed` tells.

        Nothing happens to a document that has none, has expired or is gone; and where the store can't be reached the
        expiry stays as it is, as a question does not fail for it.
        """
        try:
            await self.change_to(owner, document_id, lambda found: found and refreshed(found, now))
        except StoreUnavailable as error:
            log.warning("expiry_not_moved", document=document_id, error=str(error))

    async def change_to(
        self,
        owner: Owner,
        document_id: DocumentId,
        made: Callable[[Document | None], Document | None],
        audit: Sequence[AuditEntry] = (),
    ) -> Document | None:
        """Put what is made of the document in its place, unless that is None or the same; what is there then."""
        found = self.catalog.get(owner, document_id)
        if made(found) in (None, found):
            return found
        async with self._locks[owner, document_id]:
            found = self.catalog.get(owner, document_id)
            document = made(found)
            return found if document is None or document == found else await self._save(document, "", audit)

    async def remove(self, owner: Owner, document_id: DocumentId, *audit: AuditEntry) -> None:
        """Take the document out of the catalog; its KV and text go once no question uses them. An absent one is no error."""
        async with self._locks[owner, document_id]:
            document = self.catalog.get(owner, document_id)
            await self._store.remove_document(owner, document_id, *audit)
            if document is not None:
                self.catalog = self.catalog.without(owner, document_id)
                self._charges.seen((owner, document_id), None)
                self._announce()
                log.info("document_removed", document=document_id)

    # --- what the reading of a version reports

    def incoming(self, owner: Owner, document_id: DocumentId, version_id: VersionId) -> Version | None:
        """The version, if it is still the one to be read: not superseded and not removed."""
        document = self.catalog.get(owner, document_id)
        version = document.incoming if document is not None else None
        return version if version is not None and version.id == version_id else None

    async def record(self, owner: Owner, document_id: DocumentId, version: Version) -> None:
        """A version's progress or failure. Ignored for one that is no longer to be read."""
        async with self._locks[owner, document_id]:
            document = self.catalog.get(owner, document_id)
            if document is not None and document.incoming is not None and document.incoming.id == version.id:
                await self._store.update_version(version)
                self._show(replace(document, incoming=version))

    async def promote(self, owner: Owner, document_id: DocumentId, version: Version) -> None:
        """The version is ready: from now on it answers, the one before it no longer."""
        async with self._locks[owner, document_id]:
            document = self.catalog.get(owner, document_id)
            if document is None or document.incoming is None or document.incoming.id != version.id:
                return
            ready = replace(version, state=VersionState.READY, read_tokens=version.prefix_tokens, error=None)
            text = (await self._store.content(version.id)).text
            if document.current is not None and document.current.digest != version.digest:
                document = of_new_content(document)
            await self._classifier.learn(version.id, document.descriptor, text)
            await self._store.update_version(ready)
            document = replace(document, current=ready, incoming=None)
            await self._store.put_document(document)
            self._show(document)

    # --- inside

    async def _add(
        self,
        before: Document,
        text: str,
        descriptor: Descriptor,
        source: str,
        retention: Retention,
        *,
        needs_room: bool,
        audit: Sequence[AuditEntry] = (),
        payer: Payer | None = None,
    ) -> Document:
        """Make a version of this text for the document, whose lock is held. Raises as `put` does."""
        version, content = await asyncio.to_thread(self._reading.version, before.owner, before.id, text, self.now())
        if needs_room:
            await self._need_room(self.catalog, before.owner, version.prefix_tokens)
        now = version.created_at
        document = declared(before, descriptor)
        document = replace(document, source=source, incoming=version, coming=(), updated_at=now)
        document = replace(document, created_at=before.created_at or now)
        document = retain(document, retention, now=now, new_content=is_new(version.digest, before))
        async with self._charges.taken(payer, (before.owner, before.id), version):
            await self._store.add_version(document, version, content, *audit)
        self._show(document)
        log.info("version_added", document=before.id, version=version.id, prefix_tokens=version.prefix_tokens)
        return document

    async def _make_anew(self, document: Document, version: Version) -> None:
        """Make the content of this version, which can't answer, the document's again; it stays, failed, where that can't be.

        What has happened to the document since it was fetched stands: new content, another title, its removal.
        """
        text = (await self._store.content(version.id)).text
        async with self._locks[document.owner, document.id]:
            now = self.catalog.get(document.owner, document.id)
            if now is None or version.id not in [link.id for link in now.versions] or now.incoming not in (None, document.incoming):
                return
            if (same := self._unchanged(now, version.digest)) is not None:  # the engine is as it was before that version
                await self._save(same, "")
                return
            try:
                await self._add(now, text, now.descriptor, now.source, KEPT, needs_room=False)
            except DocumentTooLong as error:
                failed = replace(version, state=VersionState.FAILED, error=str(error))
                await self._store.update_version(failed)
                current = now.current if now.current is None or now.current.id != version.id else None
                await self._save(replace(now, current=current, incoming=failed), "")

    def _unchanged(self, before: Document, digest: str) -> Document | None:
        """The document as it should stay if this content is its current or coming one already, else None."""
        if self._reading.holds(before.incoming, digest):
            return before
        return replace(before, incoming=None, coming=()) if self._reading.holds(before.current, digest) else None

    async def _save(self, document: Document, text: str, audit: Sequence[AuditEntry] = ()) -> Document:
        await self._store.put_document(document, *audit)
        self._show(document)
        if document.current is not None and text:
            await self._classifier.learn(document.current.id, document.descriptor, text)
        return document

    def _show(self, document: Document) -> None:
        self.catalog = self.catalog.with_document(document)
        self._charges.seen((document.owner, document.id), document)
        self._announce()

    def _announce(self) -> None:
        self.change.set()
        self.change = asyncio.Event()
