"""Documents that are longer than the model reads, kept in volumes: ordinary documents that have a `part`, one for each piece.

A volume is called by its content, so it never changes and is read once, whatever texts of the document it stands in. The
document names the volumes that answer for it, and those that are to replace them; the rest follows from that:

  1. Once all that are to come can answer, they take the others' place, in one write.
  2. What is said of the document (title, pin, expiry …) is said of its volumes.
  3. A volume that its document names no longer is removed.

`run` has it so after every change, and so after a crash between any two writes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import structlog
from msgspec.structs import replace

from backends.base import Store
from backends.records import AuditEntry
from gateway.shelf.charges import Payer, prepaid
from gateway.shelf.documents import Shelf
from gateway.shelf.reading import Reading
from router.catalog import Catalog
from router.documents import Descriptor, Document, DocumentId, Key, Owner, Part, content_digest, volume_id
from router.errors import DocumentTooLong, KvshelfError
from router.prompts import clean_text
from router.retention import KEPT, Retention, retain
from router.volumes import Volume, assigned

log = structlog.get_logger("volumes")

RETRY_S = 5.0


class Volumes:
    def __init__(
        self, shelf: Shelf, store: Store, reading: Reading, need_room: Callable[[Catalog, Owner, int], Awaitable[None]]
    ) -> None:
        """`need_room`: as the shelf's."""
        self._shelf = shelf
        self._store = store
        self._reading = reading
        self._need_room = need_room
        self._locks: defaultdict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held while a document's volumes are made or put in order. The shelf's locks are taken under these, never the other way."""

    async def put(
        self,
        owner: Owner,
        document_id: DocumentId,
        raw: str,
        descriptor: Descriptor,
        *,
        source: str = "api",
        retention: Retention = KEPT,
        audit: Sequence[AuditEntry] = (),
        payer: Payer | None = None,
    ) -> Document:
        """As `Shelf.put`, but a text that is too long becomes volumes, where it may: paid for together, or not at all."""
        try:
            return await self._shelf.put(
                owner, document_id, raw, descriptor, source=source, retention=retention, audit=audit, payer=payer
            )
        except DocumentTooLong:
            if self._reading.max_volumes == 1:
                raise
        async with self._locks[owner, document_id]:
            pieces = await asyncio.to_thread(self._reading.volumes, clean_text(raw))
            ids = tuple(dict.fromkeys(volume_id(document_id, piece.text) for piece in pieces))

            def linked(before: Document | None) -> Document:
                return self._linked(before or Document(owner=owner, id=document_id, descriptor=descriptor), ids, retention)

            def put(before: Document | None) -> Document:
                now = linked(before)
                changed = replace(now, descriptor=descriptor, source=source, created_at=now.created_at or self._shelf.now())
                return changed if changed == before else replace(changed, updated_at=self._shelf.now())

            linked(self._shelf.catalog.get(owner, document_id))  # what can't be asked of its retention is refused first
            await self._add(owner, document_id, pieces, descriptor, source, payer)
            document = await self._shelf.change_to(owner, document_id, put, audit)
        return document if document is not None else put(None)

    async def run(self) -> None:
        """Keep volumes as their documents say, until cancelled."""
        while True:
            change, failed = self._shelf.change, False
            for owner, document_id in self._due():
                try:
                    await self.tend(owner, document_id)
                except KvshelfError as error:
                    failed = True
                    log.warning("volumes_not_tended", document=document_id, error=str(error), consequence="it is tried again")
            await (asyncio.sleep(RETRY_S) if failed else change.wait())

    async def tend(self, owner: Owner, document_id: DocumentId) -> None:
        """Bring the document and its volumes to what they should be."""
        async with self._locks[owner, document_id]:
            catalog = self._shelf.catalog
            parts = [one for one in catalog if one.owner == owner and one.part is not None and one.part.of == document_id]
            whole = await self._shelf.change_to(owner, document_id, self._settled)
            for part in parts:
                if whole is None or part.id not in (*whole.volumes, *whole.coming):
                    await self._shelf.remove(owner, part.id)
            if whole is None:
                return
            kept = _kept(whole)
            for part in self._shelf.catalog.parts(whole, (*whole.volumes, *whole.coming)):
                await self._shelf.change_to(owner, part.id, lambda found: found and replace(found, **kept))
            await self._describe(whole)

    # --- inside

    def _linked(self, before: Document, ids: tuple[DocumentId, ...], retention: Retention) -> Document:
        """The document with these as its volumes, once they can answer. Raises InvalidRequest."""
        is_new = ids not in (before.volumes, before.coming) and bool(before.versions or before.volumes or before.coming)
        document = retain(before, retention, now=self._shelf.now(), new_content=is_new)
        return replace(document, incoming=None, coming=ids if ids != before.volumes or before.current else ())

    async def _add(
        self,
        owner: Owner,
        document_id: DocumentId,
        pieces: Sequence[Volume],
        descriptor: Descriptor,
        source: str,
        payer: Payer | None,
    ) -> None:
        """Have those read that aren't yet. Raises StorageFull where no host could keep all of them, and BudgetSpent."""
        texts = [piece.text for piece in pieces]
        there = {text: self._shelf.catalog.get(owner, volume_id(document_id, text)) for text in texts}
        unread = [text for text, found in there.items() if not self._is_read(found, text)]
        tokens = await asyncio.to_thread(lambda: {text: self._reading.prefix_tokens(text) for text in unread})
        if new := [text for text in unread if there[text] is None]:
            await self._need_room(self._shelf.catalog, owner, sum(tokens[text] for text in new))
        async with prepaid(payer, sum(tokens.values())) as paying:
            for piece, questions in zip(pieces, assigned(descriptor.questions, texts), strict=True):
                part = Part(document_id, piece.headings)
                about = _about(descriptor, part, questions)
                volume = volume_id(document_id, piece.text)
                await self._shelf.put(owner, volume, piece.text, about, source=source, needs_room=False, part=part, payer=paying)

    def _is_read(self, volume: Document | None, text: str) -> bool:
        """Whether it has this content, or is being read."""
        return volume is not None and any(self._reading.holds(version, content_digest(text)) for version in volume.versions)

    def _due(self) -> list[Key]:
        """The documents that `tend` would do something for."""
        found: dict[Key, list[Document]] = {}
        for document in self._shelf.catalog:
            if document.part is not None:
                found.setdefault((document.owner, document.part.of), []).append(document)
        return [key for key, parts in found.items() if self._is_due(self._shelf.catalog.get(*key), parts)]

    def _is_due(self, whole: Document | None, parts: Sequence[Document]) -> bool:
        if whole is None or self._settled(whole) != whole:
            return True
        linked, kept = {*whole.volumes, *whole.coming}, _kept(whole)
        return any(part.id not in linked or replace(part, **kept) != part for part in parts) or self._is_misdescribed(whole)

    def _settled(self, whole: Document | None) -> Document | None:
        """The document with the volumes that are to come in their place, if all can answer; without any if it needs none."""
        if whole is None:
            return None
        if whole.coming:
            parts = self._shelf.catalog.parts(whole, whole.coming)
            able = [part for part in parts if part.current is not None and not self._shelf.is_stale(part)]
            if len(able) == len(whole.coming):
                return replace(whole, current=None, incoming=None, volumes=whole.coming, coming=())
        return replace(whole, volumes=()) if whole.current is not None and whole.volumes else whole

    def _edition(self, whole: Document) -> tuple[Document, ...]:
        """The volumes of the document's newest text."""
        return self._shelf.catalog.parts(whole, whole.coming or whole.volumes)

    def _is_misdescribed(self, whole: Document) -> bool:
        edition = self._edition(whole)
        known = {question for part in edition for question in part.descriptor.questions}
        if edition and known != set(whole.descriptor.questions):
            return True
        return any(
            part.part is not None and part.descriptor != _about(whole.descriptor, part.part, part.descriptor.questions)
            for part in edition
        )

    async def _describe(self, whole: Document) -> None:
        """Tell routing of each volume what is said of the document now."""
        if not self._is_misdescribed(whole):
            return
        edition = self._edition(whole)
        texts = [(await self._store.content(one.id)).text if (one := part.answering) is not None else "" for part in edition]
        for part, questions in zip(edition, assigned(whole.descriptor.questions, texts), strict=True):
            if part.part is not None and (about := _about(whole.descriptor, part.part, questions)) != part.descriptor:
                await self._shelf.amend(
                    part.owner, part.id, title=about.title, summary=about.summary, tags=about.tags, questions=about.questions
                )


def _about(descriptor: Descriptor, part: Part, questions: tuple[str, ...]) -> Descriptor:
    """A volume's descriptor. Names are the whole document's alone."""
    return Descriptor(f"{descriptor.title}: {part.headings}", descriptor.summary, descriptor.tags, questions)


def _kept(whole: Document) -> dict[str, bool | float | None]:
    return {"pinned": whole.pinned, "ttl_s": whole.ttl_s, "expires_at": whole.expires_at}
