"""The audit log: who did what, to what, when and from where. Entries are written with the change that they tell of.

Must not hold a secret or a document's text. Nothing here changes or removes an entry, and the database refuses to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from backends.base import Store
from backends.records import AuditEntry
from router.errors import StoreUnavailable

log = structlog.get_logger("audit")

NOBODY = "nobody"
REFUSALS_EVERY_S = 60.0
"""The same refusal of the same caller is written so often, with how many there were: else whoever knocks fills the database."""
CALLERS = 1000
MAX_TARGET = 300


class Actor(msgspec.Struct, frozen=True):
    """Who acts: a key's id, `cli:` and the operating system's user, or `catalog`; from where: a network address, `cli`, or a file's name."""

    name: str
    origin: str


class AuditLog:
    def __init__(self, store: Store, *, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._refused: dict[tuple[Actor, str], tuple[float, int]] = {}
        """When each was written last, and how many there were since."""

    def entry(self, by: Actor, action: str, target: str, tenant: str = "", **details: Any) -> AuditEntry:
        """To be stored with the change."""
        return AuditEntry(
            at=self._now(), actor=by.name, origin=by.origin, action=action, target=target, tenant=tenant, details=details
        )

    async def refused(self, by: Actor, target: str, why: str, **details: Any) -> None:
        """Write that a call of the operators' was refused. It is refused as well where that can't be written."""
        now, call = self._now(), (by, why)
        written_at, unwritten = self._refused.pop(call, (float("-inf"), 0))
        if now - written_at < REFUSALS_EVERY_S:
            self._refused[call] = written_at, unwritten + 1
            return
        while len(self._refused) >= CALLERS:
            del self._refused[next(iter(self._refused))]
        self._refused[call] = now, 0
        if unwritten:
            details["unwritten_before"] = unwritten
        try:
            await self._store.note(self.entry(by, "admin.refused", target[:MAX_TARGET], reason=why, **details))
        except StoreUnavailable as error:
            log.warning("refusal_not_audited", actor=by.name, origin=by.origin, error=str(error))

    async def entries(
        self, *, limit: int, since: float = 0.0, tenant: str | None = None, before: int | None = None
    ) -> list[AuditEntry]:
        """The newest first. `before`: only entries of smaller numbers."""
        return await self._store.audit(limit=limit, since=since, tenant=tenant, before=before)
