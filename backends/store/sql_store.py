"""The store in SQL: each method is one transaction.

Must not know of connections, locks or the library's errors (`database.py`). The contract is `backends.base.Store`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from sqlalchemy import Table, delete, exists, func, insert, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from backends.base import Content
from backends.records import ApiKey, AuditEntry
from backends.store.database import Database
from backends.store.rows import (
    Values,
    audit_of,
    audit_values,
    document_of,
    document_values,
    key_of,
    key_values,
    select_documents,
    used_of,
    version_of,
    version_values,
)
from backends.store.tables import api_keys, audit_log, contents, documents, states, usage, versions
from router.documents import Document, DocumentId, Owner, Version, VersionId
from router.errors import NotFound, StoreUnavailable
from router.usage import COUNTS, Used


class SqlStore:
    """A `Store` on `sqlite+aiosqlite:///path` or `postgresql+asyncpg://…`.

    Every method may raise StoreUnavailable; the writing ones raise Conflict for an id that is taken and for a link
    to a version that is not stored.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def check(self) -> str | None:
        try:
            async with self._database.read() as connection:
                await connection.execute(text("SELECT 1"))
        except StoreUnavailable as error:
            return str(error)
        return None

    # --- documents and versions

    async def documents(self) -> list[Document]:
        async with self._database.read() as connection:
            rows = await connection.execute(select_documents())
        return [document_of(row) for row in rows.mappings()]

    async def put_document(self, document: Document, *audit: AuditEntry) -> None:
        async with self._database.write() as connection:
            await _put(connection, documents, document_values(document))
            await _note(connection, audit)

    async def add_version(self, document: Document, version: Version, content: Content, *audit: AuditEntry) -> None:
        linked = {link.id for link in (document.current, document.incoming) if link}
        if version.id not in linked:
            document = msgspec.structs.replace(document, incoming=version)
        async with self._database.write() as connection:
            await connection.execute(insert(versions).values(version_values(version)))
            await connection.execute(insert(contents).values(version_id=version.id, **msgspec.structs.asdict(content)))
            await _put(connection, documents, document_values(document))
            await _note(connection, audit)

    async def update_version(self, version: Version) -> None:
        changed = update(versions).where(versions.c.id == version.id)
        async with self._database.write() as connection:
            await connection.execute(
                changed.values(state=version.state.value, read_tokens=version.read_tokens, error=version.error)
            )

    async def content(self, version_id: VersionId) -> Content:
        async with self._database.read() as connection:
            rows = await connection.execute(select(contents).where(contents.c.version_id == version_id))
        row = rows.mappings().one_or_none()
        if row is None:
            raise NotFound(f"No content is stored for version {version_id!r}.")
        return Content(text=row["text"], prefix_ids=row["prefix_ids"], vectors=row["vectors"], embedder=row["embedder"])

    async def set_vectors(self, version_id: VersionId, vectors: bytes, embedder: str) -> None:
        """Unknown ids are ignored, as by `update_version`."""
        changed = update(contents).where(contents.c.version_id == version_id)
        async with self._database.write() as connection:
            await connection.execute(changed.values(vectors=vectors, embedder=embedder))

    async def remove_version(self, version_id: VersionId) -> None:
        """A document that still points to it loses that link."""
        async with self._database.write() as connection:
            await connection.execute(delete(versions).where(versions.c.id == version_id))

    async def remove_document(self, owner: Owner, document_id: DocumentId, *audit: AuditEntry) -> None:
        async with self._database.write() as connection:
            await connection.execute(delete(documents).where(documents.c.owner == owner, documents.c.id == document_id))
            await _note(connection, audit)

    async def unlinked_versions(self) -> list[Version]:
        linking = exists().where(or_(documents.c.current_id == versions.c.id, documents.c.incoming_id == versions.c.id))
        async with self._database.read() as connection:
            rows = await connection.execute(select(versions).where(~linking))
        return [version_of(row) for row in rows.mappings()]

    # --- keys

    async def add_key(self, key: ApiKey, *audit: AuditEntry) -> None:
        async with self._database.write() as connection:
            await connection.execute(insert(api_keys).values(key_values(key)))
            await _note(connection, audit)

    async def key(self, public_id: str) -> ApiKey | None:
        async with self._database.read() as connection:
            rows = await connection.execute(select(api_keys).where(api_keys.c.public_id == public_id))
        row = rows.mappings().one_or_none()
        return None if row is None else key_of(row)

    async def keys(self) -> list[ApiKey]:
        async with self._database.read() as connection:
            rows = await connection.execute(select(api_keys))
        return [key_of(row) for row in rows.mappings()]

    async def change_key(self, public_id: str, made: Callable[[ApiKey], ApiKey], *audit: AuditEntry) -> ApiKey | None:
        of_it = api_keys.c.public_id == public_id
        async with self._database.write() as connection:
            # Locked where the database has others who write meanwhile.
            rows = await connection.execute(select(api_keys).where(of_it).with_for_update())
            row = rows.mappings().one_or_none()
            if row is None:
                return None
            key = made(key_of(row))
            await connection.execute(update(api_keys).where(of_it).values(key_values(key)))
            await _note(connection, audit)
        return key

    async def keys_used(self, used: Mapping[str, float]) -> None:
        async with self._database.write() as connection:
            for public_id, at in sorted(used.items()):  # in one order, or two processes could wait for one another
                await connection.execute(update(api_keys).where(api_keys.c.public_id == public_id).values(last_used_at=at))

    # --- the audit log

    async def note(self, *audit: AuditEntry) -> None:
        async with self._database.write() as connection:
            await _note(connection, audit)

    async def audit(
        self, *, limit: int, since: float = 0.0, tenant: str | None = None, before: int | None = None
    ) -> list[AuditEntry]:
        wanted = select(audit_log).where(audit_log.c.at >= since).order_by(audit_log.c.number.desc()).limit(limit)
        if tenant is not None:
            wanted = wanted.where(audit_log.c.tenant == tenant)
        if before is not None:
            wanted = wanted.where(audit_log.c.number < before)
        async with self._database.read() as connection:
            rows = await connection.execute(wanted)
        return [audit_of(row) for row in rows.mappings()]

    # --- states

    async def state(self, name: str) -> bytes | None:
        async with self._database.read() as connection:
            rows = await connection.execute(select(states.c.value).where(states.c.name == name))
        return rows.scalar_one_or_none()

    async def put_state(self, name: str, value: bytes, at: float, *audit: AuditEntry) -> None:
        async with self._database.write() as connection:
            await _put(connection, states, {"name": name, "value": value, "updated_at": at})
            await _note(connection, audit)

    # --- usage

    async def add_usage(self, rows: Sequence[Used]) -> None:
        async with self._database.write() as connection:
            # In one order: two gateways that add to the same rows wait for one another, and never both.
            for row in sorted(rows, key=lambda row: row.place):
                upsert = _insert(connection, usage, msgspec.structs.asdict(row))
                added = {name: usage.c[name] + upsert.excluded[name] for name in COUNTS}
                await connection.execute(upsert.on_conflict_do_update(index_elements=list(usage.primary_key), set_=added))

    async def remove_usage(self, before: str) -> int:
        async with self._database.write() as connection:
            removed = await connection.execute(delete(usage).where(usage.c.day < before))
        return removed.rowcount

    async def usage(self, *, since: str, until: str, tenant: str | None, by: Sequence[str], most: int) -> list[Used]:
        columns = [usage.c[name] for name in by]
        added = select(*columns, *(func.sum(usage.c[name]).label(name) for name in COUNTS))
        added = added.where(usage.c.day.between(since, until)).group_by(*columns).order_by(*columns).limit(most)
        if tenant is not None:
            added = added.where(usage.c.tenant == tenant)
        async with self._database.read() as connection:
            rows = await connection.execute(added)
        # A sum of nothing is NULL, and PostgreSQL's are decimals.
        return [used_of(row) for row in rows.mappings() if row["questions"] is not None]


def _insert(connection: AsyncConnection, table: Table, values: Values) -> postgresql.Insert | sqlite.Insert:
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table).values(values)


async def _put(connection: AsyncConnection, table: Table, values: Values) -> None:
    """Insert this row, or update the one of its primary key."""
    upsert = _insert(connection, table, values)
    changed = {name: upsert.excluded[name] for name in values if name not in table.primary_key.columns}
    await connection.execute(upsert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed))


async def _note(connection: AsyncConnection, entries: Sequence[AuditEntry]) -> None:
    for entry in entries:
        await connection.execute(insert(audit_log).values(audit_values(entry)))
