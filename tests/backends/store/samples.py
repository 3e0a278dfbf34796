"""Values to store, and SQL past the store's back."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import create_async_engine

from backends.base import Content, Store
from backends.records import ApiKey, AuditEntry
from router.documents import Descriptor, Document, DocumentId, Key, Owner, Salt, TenantId, Version, VersionId

CONTENT = Content(text="The lease ends on 31 May.", prefix_ids=bytes(range(256)) * 4)


def version(id_: str = "v1", **fields: Any) -> Version:
    known = Version(
        id=VersionId(id_), digest="d" * 64, fingerprint="f" * 64, salt=Salt(f"salt-{id_}"), document_tokens=900, prefix_tokens=1024
    )
    return msgspec.structs.replace(known, **fields)


def document(id_: str = "lease", owner: str = "acme", **fields: Any) -> Document:
    known = Document(owner=Owner(owner), id=DocumentId(id_), descriptor=Descriptor(title="Lease", tags=("flat",)), created_at=1.5)
    return msgspec.structs.replace(known, **fields)


def key(public_id: str = "k1", **fields: Any) -> ApiKey:
    known = ApiKey(public_id=public_id, tenant=TenantId("acme"), name="laptop", secret_hash="5e", scopes=("ask",), created_at=2.5)
    return msgspec.structs.replace(known, **fields)


def entry(**fields: Any) -> AuditEntry:
    return AuditEntry(
        **{"at": 1.5, "actor": "k1", "origin": "::1", "action": "key.create", "target": "k1", "tenant": "acme", **fields}
    )


async def stored(store: Store) -> dict[Key, Document]:
    return {(found.owner, found.id): found for found in await store.documents()}


async def run_sql(url: str, *statements: str) -> list[Row[Any]]:
    """Run each in a transaction of its own; the last one's rows."""
    rows: list[Row[Any]] = []
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            for statement in statements:
                result = await connection.exec_driver_sql(statement)
                rows = list(result) if result.returns_rows else []
    finally:
        await engine.dispose()
    return rows
