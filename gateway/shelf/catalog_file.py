"""catalog.yaml: documents declared by the operator, applied at start and whenever the file or a document changes.

A bad file changes nothing: the last good state stays, and `problems` says what is wrong. A document that is
declared no more is removed; documents added over HTTP are left alone. What changes by it is told in the audit log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta
from msgspec.structs import replace

from backends.extraction.extractor import Extractor
from backends.records import AuditEntry
from gateway import strict_yaml
from gateway.shelf.documents import Shelf
from gateway.shelf.volumes import Volumes
from gateway.strict_yaml import ConfigError
from gateway.tenants.audit import Actor, AuditLog
from gateway.watched import Stamp, changes, stamp
from router.describing import declared
from router.descriptors import guess_title
from router.documents import (
    SHARED,
    Descriptor,
    DocumentId,
    Owner,
    Summary,
    Title,
    Words,
    check_descriptor,
    check_id,
    content_digest,
)
from router.errors import KvshelfError, StoreUnavailable
from router.prompts import clean_text
from router.retention import MAX_TTL_S, Retention, retain

log = structlog.get_logger("catalog")

SOURCE = "catalog"


class Entry(msgspec.Struct, frozen=True):
    """One declared document. Without `tenant` it is shared by all.

    `pinned`: its KV is kept whatever else needs the room. `ttl_s`: it is kept for so long, from when the entry came to
    say so or its text changed.
    """

    id: str
    file: Path
    title: Title | None = None
    summary: Summary = ""
    tags: Words = ()
    questions: Words = ()
    aliases: Words = ()
    tenant: str | None = None
    pinned: bool = False
    ttl_s: Annotated[float, Meta(gt=0, le=MAX_TTL_S)] | None = None

    def __post_init__(self) -> None:
        if self.pinned and self.ttl_s is not None:
            raise ValueError("a pinned document has no TTL: leave out `pinned` or `ttl_s`")
        try:
            check_id(self.id)
            check_id(self.tenant or "x", what="tenant")
            check_descriptor(
                title=self.title or "", summary=self.summary, tags=self.tags, questions=self.questions, aliases=self.aliases
            )
        except KvshelfError as error:
            raise ValueError(str(error)) from error


class CatalogFile(msgspec.Struct, frozen=True):
    documents: tuple[Entry, ...]


class Declared(msgspec.Struct, frozen=True):
    owner: Owner
    id: DocumentId
    text: str
    descriptor: Descriptor
    retention: Retention


async def load(path: Path, extractor: Extractor) -> list[Declared]:
    """The file's documents with their texts. Raises ConfigError with everything that is wrong."""
    return await _texts(path, strict_yaml.read(path, CatalogFile).documents, extractor)


async def _texts(path: Path, entries: Iterable[Entry], extractor: Extractor) -> list[Declared]:
    found: dict[tuple[str, str], Declared] = {}
    problems = []
    for number, entry in enumerate(entries):
        at = f"{path}: `documents[{number}]` ({entry.id})"
        owner = Owner(entry.tenant) if entry.tenant else SHARED
        try:
            text = clean_text(await extractor.text_of_file(entry.file))
        except OSError as error:
            problems.append(f"{at}: {entry.file} can't be read: {error.strerror}")
            continue
        except KvshelfError as error:
            problems.append(f"{at}: {error}")
            continue
        if not text:
            problems.append(f"{at}: {entry.file} is empty")
        if (owner, entry.id) in found:
            problems.append(f"{at}: declared twice")
        descriptor = Descriptor(
            entry.title or guess_title(text, entry.id), entry.summary, entry.tags, entry.questions, entry.aliases
        )
        # Applying a file again is no new beginning for the TTLs in it.
        retention = Retention(pinned=entry.pinned, ttl_s=entry.ttl_s, again=False)
        found[owner, entry.id] = Declared(owner, DocumentId(entry.id), text, descriptor, retention)
    if problems:
        raise ConfigError(problems)
    return list(found.values())


class CatalogWatcher:
    def __init__(self, path: Path | None, shelf: Shelf, volumes: Volumes, extractor: Extractor, audit: AuditLog) -> None:
        """`path`: the catalog file, None where there is none."""
        self.problems: list[str] = []
        self._path = path
        self._shelf = shelf
        self._volumes = volumes
        self._extractor = extractor
        self._audit = audit
        self._seen: dict[Path, Stamp] = {}
        """The file and the texts it declares, as they were when they were last applied."""

    async def apply(self) -> None:
        """Bring the shelf to what the file declares now. Never raises for what is in the file: `problems` says it."""
        if self._path is None:
            return
        try:
            entries = await asyncio.to_thread(self._entries, self._path)
            self._say(await self._apply(self._path, await _texts(self._path, entries, self._extractor)))
        except ConfigError as error:
            self._say(error.problems)
        except StoreUnavailable as error:
            self._seen[self._path] = None  # no file is like this: it is applied again when it is looked at next
            self._say([f"{self._path}: not applied yet: {error}"])

    async def watch(self) -> None:
        """Apply again at every change of the file or of a declared document, until cancelled."""
        if self._path is None:
            return
        async for changed in changes(lambda: self._seen):
            log.info("catalog_changed", files=changed)
            await self.apply()

    async def _apply(self, path: Path, entries: list[Declared]) -> list[str]:
        """What is wrong with single documents; the others are applied."""
        problems = []
        for entry in entries:
            try:
                await self._volumes.put(
                    entry.owner,
                    entry.id,
                    entry.text,
                    entry.descriptor,
                    source=SOURCE,
                    retention=entry.retention,
                    audit=self._told(path, entry),
                )
            except StoreUnavailable:
                raise
            except KvshelfError as error:
                problems.append(f"{path}: {entry.id}: {error}")
        wanted = {(entry.owner, entry.id) for entry in entries}
        for document in self._shelf.catalog:
            if document.source == SOURCE and (document.owner, document.name) not in wanted:
                told = [self._entry(path, "document.remove", document.owner, document.id)] if document.part is None else []
                await self._shelf.remove(document.owner, document.id, *told)
        return problems

    def _told(self, path: Path, entry: Declared) -> list[AuditEntry]:
        """What the audit log has of it, where putting it changes the document. Raises InvalidRequest.

        One that says what it said, and is read anew as the engine is another, is no change.
        """
        before = self._shelf.catalog.get(entry.owner, entry.id)
        if before is None:
            return [self._entry(path, "document.add", entry.owner, entry.id)]
        after = replace(retain(declared(before, entry.descriptor), entry.retention, now=self._shelf.now()), source=SOURCE)
        if after == before and content_digest(entry.text) in {version.digest for version in before.versions}:
            return []
        return [self._entry(path, "document.replace", entry.owner, entry.id)]

    def _entry(self, path: Path, action: str, owner: Owner, document_id: DocumentId) -> AuditEntry:
        tenant, details = ("", {"shared": True}) if owner == SHARED else (owner, {})
        return self._audit.entry(Actor(SOURCE, path.name), action, document_id, tenant, **details)

    def _entries(self, path: Path) -> tuple[Entry, ...]:
        # Looked at before it is read: what changes in between is then seen as a change.
        self._seen = {path: stamp(path)}
        entries = strict_yaml.read(path, CatalogFile).documents
        self._seen |= {entry.file: stamp(entry.file) for entry in entries}
        return entries

    def _say(self, problems: list[str]) -> None:
        if problems and problems != self.problems:
            log.error("catalog_problems", problems=problems, consequence="the last good state stays")
        self.problems = problems
