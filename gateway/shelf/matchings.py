"""How each tenant's evidence is weighed: as kvshelf ships it, or as it was fitted to the tenant's own questions and stored."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from backends.base import Store
from backends.records import AuditEntry
from router.defaults import MATCHING
from router.documents import TenantId
from router.errors import StoreUnavailable
from router.matching import Matching

log = structlog.get_logger("matchings")


LOOK_UP_S = 30.0
"""So late another gateway's fit is used here."""


class Matchings:
    """How each tenant's evidence is weighed."""

    def __init__(self, store: Store, *, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._known: dict[TenantId, tuple[Matching, float]] = {}
        """With the time at which each was looked up."""

    async def get(self, tenant: TenantId) -> Matching:
        """The tenant's own, else the shipped one. Where the store can't be reached, what was known before."""
        before = self._known.get(tenant)
        if before is not None and self._now() - before[1] < LOOK_UP_S:
            return before[0]
        if before is not None:
            before = self._known[tenant] = before[0], self._now()  # others go by it while it is looked up
        with suppress(StoreUnavailable):
            found = _decoded(await self._store.state(_name(tenant)))
            if self._known.get(tenant) is before:  # else something was put meanwhile
                self._known[tenant] = found, self._now()
        return self._known[tenant][0] if tenant in self._known else MATCHING

    async def put(self, tenant: TenantId, matching: Matching | None, *audit: AuditEntry) -> None:
        """None: the shipped one again. `audit`: what is told of it, stored with it."""
        await self._store.put_state(_name(tenant), msgspec.json.encode(matching), self._now(), *audit)
        self._known[tenant] = matching or MATCHING, self._now()


def _name(tenant: TenantId) -> str:
    return f"routing:{tenant}"


def _decoded(stored: bytes | None) -> Matching:
    if stored is None:
        return MATCHING
    try:
        found = msgspec.json.decode(stored, type=Matching | None)
    except msgspec.MsgspecError as error:
        log.warning("fitted_routing_unreadable", error=str(error), consequence="the shipped parameters are used")
        return MATCHING
    fits = found is not None and all(
        [len(row) for row in msgspec.structs.astuple(own) if isinstance(row, tuple)]
        == [len(row) for row in msgspec.structs.astuple(shipped) if isinstance(row, tuple)]
        for own, shipped in ((found.full, MATCHING.full), (found.lexical, MATCHING.lexical))
    )
    if found is not None and not fits:
        log.warning("fitted_routing_outdated", consequence="the shipped parameters are used: fit them again")
    return found if found is not None and fits else MATCHING
