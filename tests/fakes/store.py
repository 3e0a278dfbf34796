"""A `Store` in memory, with the contract of the real one: `tests/backends/store/test_contract.py` runs over both.

Must not be cleverer than the contract. What it holds survives `close`, as a database would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from backends.base import Content
from backends.records import ApiKey, AuditEntry
from router.documents import Document, DocumentId, Key, Owner, Version, VersionId
from router.errors import Conflict, NotFound, StoreUnavailable
from router.usage import Used, grouped


class MemoryStore:
    """Set `fault` to a sentence and every call fails with it, until `open` or None."""

    def __init__(self) -> None:
        self.fault: str | None = "The store is not open."
        self.refused = 0
        """Calls that failed."""
        self._documents: dict[Key, Document] = {}
        self._versions: dict[VersionId, Version] = {}
        self._contents: dict[VersionId, Content] = {}
        self._keys: dict[str, ApiKey] = {}
        self._states: dict[str, bytes] = {}
        self._audit: list[AuditEntry] = []
        self._usage: dict[tuple[str, str, str, str], Used] = {}

    async def open(self) -> None:
        self.fault = None

    async def close(self) -> None:
        self.fault = "The store is not open."

    async def check(self) -> str | None:
        return self.fault

    async def documents(self) -> list[Document]:
        await self._turn()
        return [
            replace(
                document,
                current=self._versions[document.current.id] if document.current else None,
                incoming=self._versions[document.incoming.id] if document.incoming else None,
            )
            for document in self._documents.values()
        ]

    async def put_document(self, document: Document, *audit: AuditEntry) -> None:
        await self._turn()
        if not _links(document) <= self._versions.keys():
            raise Conflict("The document names a version that is not stored.")
        self._documents[document.owner, document.id] = document
        self._note(audit)

    async def add_version(self, document: Document, version: Version, content: Content, *audit: AuditEntry) -> None:
        await self._turn()
        if version.id not in _links(document):
            document = replace(document, incoming=version)
        if version.id in self._versions or not _links(document) <= {*self._versions, version.id}:
            raise Conflict("The version exists already, or the document names another that is not stored.")
        self._versions[version.id] = version
        self._contents[version.id] = content
        self._documents[document.owner, document.id] = document
        self._note(audit)

    async def update_version(self, version: Version) -> None:
        await self._turn()
        if stored := self._versions.get(version.id):
            changed = replace(stored, state=version.state, read_tokens=version.read_tokens, error=version.error)
            self._versions[version.id] = changed

    async def content(self, version_id: VersionId) -> Content:
        await self._turn()
        if version_id not in self._contents:
            raise NotFound(f"No content is stored for version {version_id!r}.")
        return self._contents[version_id]

    async def set_vectors(self, version_id: VersionId, vectors: bytes, embedder: str) -> None:
        await self._turn()
        if stored := self._contents.get(version_id):
            self._contents[version_id] = replace(stored, vectors=vectors, embedder=embedder)

    async def remove_version(self, version_id: VersionId) -> None:
        await self._turn()
        self._versions.pop(version_id, None)
        self._contents.pop(version_id, None)
        for key, document in self._documents.items():
            current, incoming = (
                None if link is None or link.id == version_id else link for link in (document.current, document.incoming)
            )
            self._documents[key] = replace(document, current=current, incoming=incoming)

    async def remove_document(self, owner: Owner, document_id: DocumentId, *audit: AuditEntry) -> None:
        await self._turn()
        self._documents.pop((owner, document_id), None)
        self._note(audit)

    async def unlinked_versions(self) -> list[Version]:
        await self._turn()
        linked = {link for document in self._documents.values() for link in _links(document)}
        return [version for version in self._versions.values() if version.id not in linked]

    async def add_key(self, key: ApiKey, *audit: AuditEntry) -> None:
        await self._turn()
        if key.public_id in self._keys:
            raise Conflict("A key of this public id exists already.")
        self._keys[key.public_id] = key
        self._note(audit)

    async def key(self, public_id: str) -> ApiKey | None:
        await self._turn()
        return self._keys.get(public_id)

    async def keys(self) -> list[ApiKey]:
        await self._turn()
        return list(self._keys.values())

    async def change_key(self, public_id: str, made: Callable[[ApiKey], ApiKey], *audit: AuditEntry) -> ApiKey | None:
        await self._turn()
        if (key := self._keys.get(public_id)) is None:
            return None
        changed = self._keys[public_id] = made(key)
        self._note(audit)
        return changed

    async def keys_used(self, used: Mapping[str, float]) -> None:
        await self._turn()
        for public_id in used.keys() & self._keys.keys():
            self._keys[public_id] = replace(self._keys[public_id], last_used_at=used[public_id])

    async def note(self, *audit: AuditEntry) -> None:
        await self._turn()
        self._note(audit)

    async def audit(
        self, *, limit: int, since: float = 0.0, tenant: str | None = None, before: int | None = None
    ) -> list[AuditEntry]:
        await self._turn()
        found = [
            entry
            for entry in reversed(self._audit)
            if entry.at >= since and tenant in (None, entry.tenant) and (before is None or entry.number < before)
        ]
        return found[:limit]

    async def state(self, name: str) -> bytes | None:
        await self._turn()
        return self._states.get(name)

    async def put_state(self, name: str, value: bytes, at: float, *audit: AuditEntry) -> None:
        await self._turn()
        self._states[name] = value
        self._note(audit)

    def _note(self, entries: tuple[AuditEntry, ...]) -> None:
        for entry in entries:
            self._audit.append(replace(entry, number=len(self._audit) + 1))

    async def add_usage(self, rows: Sequence[Used]) -> None:
        await self._turn()
        for row in rows:
            self._usage[row.place] = self._usage[row.place].plus(row) if row.place in self._usage else row

    async def remove_usage(self, before: str) -> int:
        await self._turn()
        gone = [place for place, row in self._usage.items() if row.day < before]
        for place in gone:
            del self._usage[place]
        return len(gone)

    async def usage(self, *, since: str, until: str, tenant: str | None, by: Sequence[str], most: int) -> list[Used]:
        await self._turn()
        rows = [row for row in self._usage.values() if since <= row.day <= until and tenant in (None, row.tenant)]
        return grouped(rows, by)[:most]

    async def _turn(self) -> None:
        # A database would let others run first; a fake that doesn't hides its callers' races. All after this is one step.
        await asyncio.sleep(0)
        if self.fault is not None:
            self.refused += 1
            raise StoreUnavailable(self.fault)


def _links(document: Document) -> set[VersionId]:
    return {link.id for link in (document.current, document.incoming) if link}
