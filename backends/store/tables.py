"""The tables, and the column types that bring any Python string back as it was.

Must hold no queries. `migrations/` builds these tables (a test compares the two), `rows.py` turns their rows into values.
"""

from __future__ import annotations

import json
import re

from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text, false
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

_UNSTORABLE = re.compile("[\\\\\0\ud800-\udfff]")
_ESCAPED = re.compile(r"\\([0-9a-f]{4})")


def escaped(text: str) -> str:
    r"""`text` without what a database can't hold: PostgreSQL refuses NUL, UTF-8 has no lone surrogates (file names do).

    >>> escaped("a\0b"), escaped("C:\\x"), escaped("naïve")
    ('a\\0000b', 'C:\\005cx', 'naïve')
    """
    return _UNSTORABLE.sub(lambda match: f"\\{ord(match[0]):04x}", text)


def unescaped(text: str) -> str:
    """The inverse of `escaped`."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


class Exact(TypeDecorator[str]):
    """A string, ordinary text readable in SQL. Also for ids: a made-up one with a NUL must be unknown, not an error."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else escaped(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else unescaped(value)


class Strings(TypeDecorator[tuple[str, ...]]):
    """A tuple of strings as a JSON array. Text rather than the dialects' JSON types, whose PostgreSQL form is picky."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps([escaped(item) for item in value], ensure_ascii=False)

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...] | None:
        return None if value is None else tuple(unescaped(item) for item in json.loads(value))


class LongText(TypeDecorator[str]):
    """A document's text as UTF-8 bytes: megabytes are encoded in a millisecond, where a pattern would walk through them."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.encode("utf-8", "surrogatepass")

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else value.decode("utf-8", "surrogatepass")


# Named constraints can be changed by a later migration; nameless ones can't on SQLite.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

# Column names are the field names of `router.documents.Version`.
versions = Table(
    "versions",
    metadata,
    Column("id", Exact, primary_key=True),
    Column("digest", Exact, nullable=False),
    Column("fingerprint", Exact, nullable=False),
    Column("salt", Exact, nullable=False),  # not unique: a deleted and re-added text has the salt of the one being cleared
    Column("document_tokens", Integer, nullable=False),
    Column("prefix_tokens", Integer, nullable=False),
    Column("state", Exact, nullable=False),
    Column("read_tokens", Integer, nullable=False),
    Column("error", Exact),
    Column("created_at", Double, nullable=False),
)

# Apart from `versions`, so that listing documents never touches megabytes.
contents = Table(
    "contents",
    metadata,
    Column("version_id", Exact, ForeignKey(versions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("text", LongText, nullable=False),
    Column("prefix_ids", LargeBinary, nullable=False),
    Column("vectors", LargeBinary, nullable=False),
    Column("embedder", Exact, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("owner", Exact, primary_key=True),
    Column("id", Exact, primary_key=True),
    Column("title", Exact, nullable=False),
    Column("summary", Exact, nullable=False),
    Column("tags", Strings, nullable=False),
    Column("questions", Strings, nullable=False),
    Column("source", Exact, nullable=False),
    Column("current_id", Exact, ForeignKey(versions.c.id, ondelete="SET NULL")),
    Column("incoming_id", Exact, ForeignKey(versions.c.id, ondelete="SET NULL")),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("pinned", Boolean, nullable=False, server_default=false()),
    Column("ttl_s", Double),
    Column("expires_at", Double),
    Column("aliases", Strings, nullable=False, server_default="[]"),
    Column("generated", Strings, nullable=False, server_default="[]"),
    Column("edited", Strings, nullable=False, server_default="[]"),
    Column("part_of", Exact),
    Column("headings", Exact),
    Column("volumes", Strings, nullable=False, server_default="[]"),
    Column("coming", Strings, nullable=False, server_default="[]"),
    # Both are searched whenever a version is deleted.
    Index(None, "current_id"),
    Index(None, "incoming_id"),
)

# Column names are the field names of `backends.records.ApiKey`.
api_keys = Table(
    "api_keys",
    metadata,
    Column("public_id", Exact, primary_key=True),
    Column("tenant", Exact, nullable=False),
    Column("name", Exact, nullable=False),
    Column("secret_hash", Exact, nullable=False),
    Column("scopes", Strings, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    Column("environment", Exact, nullable=False, server_default="live"),
    Column("expires_at", Double),
    Column("last_used_at", Double),
    Column("documents", Strings, nullable=False, server_default="[]"),
    Column("tags", Strings, nullable=False, server_default="[]"),
    Column("limits", Exact, nullable=False, server_default="{}"),  # JSON
    Column("old_hash", Exact),
    Column("old_until", Double),
)

# Column names are the field names of `backends.records.AuditEntry`. Triggers refuse UPDATE and DELETE (revision 0006).
audit_log = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor", Exact, nullable=False),
    Column("origin", Exact, nullable=False),
    Column("action", Exact, nullable=False),
    Column("target", Exact, nullable=False),
    Column("tenant", Exact, nullable=False),
    Column("details", Exact, nullable=False),
)

# Small things that are rebuilt without harm, whole under a name.
states = Table(
    "states",
    metadata,
    Column("name", Exact, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("updated_at", Double, nullable=False),
)

# Column names are the field names of `router.usage.Used`. Counts grow without end: a busy document's tokens pass 2³¹ in a day.
usage = Table(
    "usage",
    metadata,
    Column("tenant", Exact, primary_key=True),
    Column("key", Exact, primary_key=True),
    Column("document", Exact, primary_key=True),
    Column("day", Exact, primary_key=True),
    Column("questions", BigInteger, nullable=False),
    Column("parts", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("saved_s", Double, nullable=False),
    Index(None, "day"),
)
