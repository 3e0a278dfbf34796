"""What tenants and keys may use, and what they have used of it. For operators: needs a key with the scope `admin`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from litestar import get
from litestar.di import NamedDependency

from backends.base import Store
from backends.records import ApiKey
from gateway.shelf.documents import Shelf
from gateway.tenants.counters import Counters
from gateway.tenants.doors import needs
from gateway.tenants.limits_file import TenantLimits
from gateway.tenants.quotas import documents_of
from router.chunk_tier import ChunkTier
from router.documents import SHARED, Owner, TenantId
from router.limits import Charge, Limits, Rates, minute
from router.residency import Ledger


class BudgetView(msgspec.Struct, frozen=True):
    """`reserved` of the `used` tokens are held by questions under way; 0 where a shared storage counts. `resets_at`: seconds
    since the epoch."""

    period: str
    used: int
    reserved: int
    resets_at: float


class RatesUsed(msgspec.Struct, frozen=True):
    """Of the last minute; what is not limited is not counted, and null."""

    requests: int | None
    tokens: int | None
    streams: int | None
    budget: BudgetView | None


class KeyUse(msgspec.Struct, frozen=True):
    id: str
    name: str
    limits: Rates
    used: RatesUsed


class TenantUse(msgspec.Struct, frozen=True):
    """`disk_bytes`, `ram_bytes`: what its documents' KV takes, by host."""

    id: TenantId
    limits: Limits
    used: RatesUsed
    documents: int
    disk_bytes: dict[str, int]
    ram_bytes: dict[str, int]
    keys: list[KeyUse]


class TenantUses(msgspec.Struct, frozen=True):
    data: list[TenantUse]


class TenantsOverview:
    def __init__(self, store: Store, tenants: TenantLimits, counters: Counters, shelf: Shelf, ledger: Ledger) -> None:
        self._store = store
        self._tenants = tenants
        self._counters = counters
        self._shelf = shelf
        self._ledger = ledger

    async def look(self) -> list[TenantUse]:
        """Every tenant that has a key which works, a document, or a place in the limits' file."""
        keys: dict[TenantId, list[ApiKey]] = {}
        for key in await self._store.keys():
            if key.revoked_at is None:
                keys.setdefault(key.tenant, []).append(key)
        owners = {TenantId(document.owner) for document in self._shelf.catalog if document.owner != SHARED}
        return [await self._tenant(tenant, keys.get(tenant, [])) for tenant in sorted({*keys, *owners, *self._tenants.named})]

    async def _tenant(self, tenant: TenantId, keys: list[ApiKey]) -> TenantUse:
        limits, owner = self._tenants.of(tenant), Owner(tenant)
        return TenantUse(
            tenant,
            limits,
            await self._used(f"tenant/{tenant}", limits),
            len(documents_of(self._shelf.catalog, owner)),
            self._held_bytes(owner, self._ledger.disk),
            self._held_bytes(owner, self._ledger.ram),
            [
                KeyUse(key.public_id, key.name, key.limits, await self._used(f"key/{key.public_id}", key.limits))
                for key in sorted(keys, key=lambda key: (key.created_at, key.public_id))
            ],
        )

    async def _used(self, whose: str, rates: Rates) -> RatesUsed:
        counters, now = self._counters, self._counters.now()
        requests, tokens, budget = (
            Charge(f"requests/{whose}", rates.requests_per_minute or 0, 0, minute(now)),
            Charge(f"tokens/{whose}", rates.tokens_per_minute or 0, 0, minute(now)),
            counters.budget(whose, rates, 0),
        )
        taken, _ = await counters.take((requests, tokens, budget))
        in_minute = [used.measured(requests.window, now) for used in taken.used[:2]]
        return RatesUsed(
            in_minute[0] if rates.requests_per_minute is not None else None,
            in_minute[1] if rates.tokens_per_minute is not None else None,
            await counters.streams(f"streams/{whose}") if rates.streams is not None else None,
            BudgetView(rates.budget_period or "day", taken.used[2].current, counters.reserved_of(budget), budget.window.end)
            if rates.token_budget is not None
            else None,
        )

    def _held_bytes(self, owner: Owner, tier: Callable[[str], ChunkTier]) -> dict[str, int]:
        salts = {version.salt for document in self._shelf.catalog if document.owner == owner for version in document.versions}
        held = {host: sum(map(tier(host).size_bytes, salts)) for host in self._ledger.hosts}
        return {host: size_bytes for host, size_bytes in held.items() if size_bytes}


@get("/admin/tenants", tags=["tenants"], opt=needs("admin"))
async def tenants(overview: NamedDependency[TenantsOverview]) -> TenantUses:
    """Each tenant's limits and its keys', and what is used of them."""
    return TenantUses(await overview.look())
