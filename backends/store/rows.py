"""Values to rows and back.

Must not run queries. The tables are in `tables.py`, the values in `router/documents.py` and `backends/records.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Select, select

from backends.records import ApiKey, AuditEntry
from backends.store.tables import api_keys, audit_log, documents, versions
from router.documents import Descriptor, Document, Part, Version, VersionState
from router.limits import Rates
from router.usage import BY, COUNTS, Used

Values = dict[str, Any]
RowMapping = Mapping[Any, Any]

_current = versions.alias("current")
_incoming = versions.alias("incoming")


def version_values(version: Version) -> Values:
    return {**msgspec.structs.asdict(version), "state": version.state.value}


def version_of(row: RowMapping, prefix: str = "") -> Version:
    fields = {column.name: row[prefix + column.name] for column in versions.c}
    return Version(**{**fields, "state": VersionState(fields["state"])})


def document_values(document: Document) -> Values:
    descriptor = document.descriptor
    return {
        "owner": document.owner,
        "id": document.id,
        "title": descriptor.title,
        "summary": descriptor.summary,
        "tags": descriptor.tags,
        "questions": descriptor.questions,
        "aliases": descriptor.aliases,
        "source": document.source,
        "current_id": document.current.id if document.current else None,
        "incoming_id": document.incoming.id if document.incoming else None,
        "created_at": document.created_at,
        "updated_at": document.updated_at,
        "pinned": document.pinned,
        "ttl_s": document.ttl_s,
        "expires_at": document.expires_at,
        "generated": document.generated,
        "edited": document.edited,
        "part_of": document.part.of if document.part else None,
        "headings": document.part.headings if document.part else None,
        "volumes": document.volumes,
        "coming": document.coming,
    }


def select_documents() -> Select[Any]:
    """Every document with both of its versions, in one statement: the links and what they lead to can't disagree."""
    return (
        select(
            *documents.c,
            *(column.label(f"current:{column.name}") for column in _current.c),
            *(column.label(f"incoming:{column.name}") for column in _incoming.c),
        )
        .outerjoin(_current, documents.c.current_id == _current.c.id)
        .outerjoin(_incoming, documents.c.incoming_id == _incoming.c.id)
    )


def document_of(row: RowMapping) -> Document:
    """From a row of `select_documents`."""
    return Document(
        owner=row["owner"],
        id=row["id"],
        descriptor=Descriptor(**{name: row[name] for name in Descriptor.__struct_fields__}),
        source=row["source"],
        current=None if row["current_id"] is None else version_of(row, "current:"),
        incoming=None if row["incoming_id"] is None else version_of(row, "incoming:"),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        pinned=row["pinned"],
        ttl_s=row["ttl_s"],
        expires_at=row["expires_at"],
        generated=row["generated"],
        edited=row["edited"],
        part=None if row["part_of"] is None else Part(row["part_of"], row["headings"]),
        volumes=row["volumes"],
        coming=row["coming"],
    )


def key_values(key: ApiKey) -> Values:
    return {**msgspec.structs.asdict(key), "limits": msgspec.json.encode(key.limits).decode()}


def key_of(row: RowMapping) -> ApiKey:
    fields = {column.name: row[column.name] for column in api_keys.c}
    return ApiKey(**{**fields, "limits": msgspec.json.decode(fields["limits"], type=Rates)})


def audit_values(entry: AuditEntry) -> Values:
    """Without a number: the database gives it."""
    fields = {name: value for name, value in msgspec.structs.asdict(entry).items() if name != "number"}
    return {**fields, "details": msgspec.json.encode(entry.details).decode()}


def audit_of(row: RowMapping) -> AuditEntry:
    fields = {column.name: row[column.name] for column in audit_log.c}
    return AuditEntry(**{**fields, "details": msgspec.json.decode(fields["details"])})


def used_of(row: RowMapping) -> Used:
    """From a row that may lack some of what rows are grouped by."""
    counts = {name: int(row[name]) for name in COUNTS}
    return Used(**{**{name: row[name] for name in BY if name in row}, **counts, "saved_s": float(row["saved_s"])})
