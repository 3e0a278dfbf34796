"""A key as people see it: never its secret, nor the hash of it."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import msgspec

from backends.records import ApiKey
from router.limits import Rates


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    tenant: str
    name: str
    environment: str
    scopes: tuple[str, ...]
    documents: tuple[str, ...]
    """With `tags`: what the key is narrowed to; both empty: whatever its tenant sees."""
    tags: tuple[str, ...]
    limits: Rates
    state: Literal["active", "expired", "revoked"]
    created_at: float
    expire_at: datetime.datetime | None
    last_used_at: float | None
    """To the minute."""
    revoked_at: float | None
    secrets: int
    """2 while the one before the last rotation is good as well."""
    old_until: datetime.datetime | None
    """Until when; null: until somebody ends it, or where there is none."""
    object: Literal["key"] = "key"


class NewKeyView(KeyView, frozen=True, kw_only=True):
    key: str
    """Shown this once."""


def view(record: ApiKey, now: float) -> KeyView:
    return KeyView(**_fields(record, now))


def new_view(key: str, record: ApiKey, now: float) -> NewKeyView:
    return NewKeyView(key=key, **_fields(record, now))


def _fields(record: ApiKey, now: float) -> dict[str, Any]:
    two = record.good_old_hash(now) is not None
    return {
        "id": record.public_id,
        **{name: getattr(record, name) for name in ("tenant", "name", "environment", "scopes", "documents", "tags", "limits")},
        "state": "active" if record.lives(now) else "expired" if record.revoked_at is None else "revoked",
        **{name: getattr(record, name) for name in ("created_at", "last_used_at", "revoked_at")},
        "expire_at": _moment(record.expires_at),
        "secrets": 2 if two else 1,
        "old_until": _moment(record.old_until) if two else None,
    }


def _moment(at: float | None) -> datetime.datetime | None:
    return None if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC)
