"""How each tenant's evidence is weighed: as kvshelf ships it, or as it was fitted to the tenant's own questions and stored."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from backends.base import Store
from router.defaults import MATCHING
from router.documents import TenantId
from router.errors import StoreUnavailable
from router.matching import Matching

log = structlog.get_logger("matchings")


class Matchings:
    """How each tenant's evidence is weighed."""

    def __init__(self, store: Store, *, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._known: dict[TenantId, Matching] = {}

    async def get(self, tenant: TenantId) -> Matching:
        """The tenant's own, else the shipped one; also where the store can't be reached."""
        known = self._known.get(tenant)
        if known is None:
            try:
                stored = await self._store.state(_name(tenant))
            except StoreUnavailable:
                return MATCHING
            known = self._known.setdefault(tenant, _decoded(stored))
        return known

    async def put(self, tenant: TenantId, matching: Matching | None) -> None:
        """None: the shipped one again."""
        await self._store.put_state(_name(tenant), msgspec.json.encode(matching), self._now())
        self._known[tenant] = matching or MATCHING


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
