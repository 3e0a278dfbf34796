"""What the store keeps of keys, and of who did what with them: values, as the rows are.

Must not act. What a key opens is `gateway/tenants/`'s to say.
"""

from __future__ import annotations

from typing import Any

import msgspec

from router.documents import DocumentId, TenantId
from router.limits import NO_RATES, Rates


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's key as it is kept: never the key itself. Times are seconds since the epoch."""

    public_id: str
    tenant: TenantId
    name: str
    secret_hash: str
    scopes: tuple[str, ...] = ()
    environment: str = "live"
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None
    """To the minute."""
    documents: tuple[DocumentId, ...] = ()
    """With `tags`: the documents that the key is narrowed to; both empty: whatever its tenant sees."""
    tags: tuple[str, ...] = ()
    limits: Rates = NO_RATES
    """What it may use, beside its tenant's limits."""
    old_hash: str | None = None
    """Of the secret before this one, while both are good."""
    old_until: float | None = None
    """Until when the old one is; None: until somebody ends it."""

    def lives(self, now: float) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def good_old_hash(self, now: float) -> str | None:
        """The old secret's hash, while that is good."""
        return self.old_hash if self.old_until is None or now < self.old_until else None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, to what, when and from where. Holds no secret and no document's text."""

    at: float
    actor: str
    """A key's id, `cli:` and the operating system's user, `catalog` for the catalog file, or `nobody`."""
    origin: str
    """A network address, `cli`, or the file's name."""
    action: str
    """What was done, e.g. `key.create`."""
    target: str
    """What it was done to: a key's id, a document's, a path."""
    tenant: str = ""
    """Whose that is; empty where it is nobody's."""
    details: dict[str, Any] = {}
    number: int = 0
    """Given by the store, in the order of writing."""
