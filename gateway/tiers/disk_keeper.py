"""Keeps each host's disk tier within its budget: room is made before anything is written, and asked for here.

The decision is `router/budget.py`'s. A version that is to be written is promised its room, and keeps the promise until
what it wrote has been seen (`settle`); what is there after a crash is counted from the files.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator
from typing import Protocol

import structlog
from msgspec.structs import replace

from gateway.sections import Disk as DiskConfig
from gateway.shelf.reading import Reading
from gateway.tiers.hosts import Hosts
from gateway.tiers.uses import Uses
from observability.telemetry import HOST, LIMIT, TENANT, Telemetry
from router.budget import Disk, Exempt, Kept, NoRoom, make_room
from router.catalog import Catalog
from router.documents import SHARED, Document, Owner, Salt, TenantId, Version, VersionState
from router.errors import QuotaExceeded, StorageFull
from router.limits import UNLIMITED, Limits
from router.residency import Ledger

log = structlog.get_logger("disk")

GIB = 2**30


class HasCatalog(Protocol):
    """The shelf: asked for its catalog whenever something is decided, as it may change while others are waited for."""

    catalog: Catalog


class DiskKeeper:
    def __init__(
        self,
        hosts: Hosts,
        ledger: Ledger,
        uses: Uses,
        reading: Reading,
        config: DiskConfig,
        telemetry: Telemetry,
        *,
        token_bytes: float,
        limits: Callable[[TenantId], Limits] = lambda _: UNLIMITED,
    ) -> None:
        """`token_bytes`: what a token's KV takes on the disk; 0 where that isn't known, and nothing is then counted ahead.

        `limits`: each tenant's, of which `disk_gib` is kept here.
        """
        self._hosts = hosts
        self._ledger = ledger
        self._uses = uses
        self._reading = reading
        self._config = config
        self._telemetry = telemetry
        self._token_bytes = token_bytes
        self._limits = limits
        self._promised: dict[str, dict[Salt, int]] = defaultdict(dict)
        self._takers: Counter[tuple[str, Salt]] = Counter()
        """How many have each promise: a question and a reading may write one version at once."""
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def __repr__(self) -> str:
        return f"<DiskKeeper promised={ ({host: self.promised_bytes(host) for host in self._promised}) }>"

    def size_bytes(self, version: Version) -> int:
        """What the version's KV takes on a disk, in bytes."""
        return round(version.prefix_tokens * self._token_bytes)

    def promised_bytes(self, host: str, salts: Container[Salt] | None = None) -> int:
        """What is promised on this host (to these versions) and not written yet."""
        tier = self._ledger.disk(host)
        promised = self._promised[host].items()
        return sum(max(size - tier.size_bytes(salt), 0) for salt, size in promised if salts is None or salt in salts)

    async def check(self, catalog: Catalog, owner: Owner, prefix_tokens: int) -> None:
        """Raises StorageFull if no host could make room for a document of so many tokens, whatever is read and asked now:
        what is pinned stays, for the rest it can wait. QuotaExceeded where it is its owner who may not have so much."""
        refusals: list[StorageFull] = []
        need_bytes = round(prefix_tokens * self._token_bytes)
        pinned = {v.salt for document in catalog.pinned for v in document.versions if self._reading.reads(v)}
        for server in self._hosts:
            if not server.sees_disk:
                return
            try:
                for whose in self._budgets(owner):
                    disk = await self._disk(catalog, server.name, pinned, whose)
                    kept = [
                        replace(one, exempt=Exempt.PINNED if one.salt in pinned else None)
                        for one in self._kept(catalog, server.name, whose)
                    ]
                    answer = make_room(disk, kept, need_bytes)
                    if isinstance(answer, NoRoom):
                        raise self._full(answer, whose)
            except StorageFull as error:
                refusals.append(error)
            else:
                return
        if refusals:
            if isinstance(refusals[0], QuotaExceeded):
                self._telemetry.limit_refusals.add(1, {LIMIT: "disk", TENANT: owner})
            raise refusals[0]

    async def admit(self, shelf: HasCatalog, version: Version, host: str | None) -> None:
        """Promise the version room on this host, evicting what has to go. Raises StorageFull where that isn't enough.

        Ends with one `settle`. A version that was promised room already keeps that, until the last is settled.
        """
        server = self._hosts.get(host)
        if server is None or host is None or not server.sees_disk:
            return
        async with self._locks[host]:
            promised = self._promised[host]
            if version.salt not in promised:
                need_bytes = max(self.size_bytes(version) - self._ledger.disk(host).size_bytes(version.salt), 0)
                # Promised before the evicting waits: it must not be evicted itself.
                promised[version.salt] = self.size_bytes(version)
                found = shelf.catalog.of_salt(version.salt)
                try:
                    for whose in self._budgets(found[0].owner if found is not None else None):
                        await self._make_room(shelf, host, need_bytes, version.salt, whose)
                except BaseException:
                    del promised[version.salt]
                    raise
            self._takers[host, version.salt] += 1

    def settle(self, version: Version, host: str | None) -> None:
        """What the version wrote is on the disk and in the ledger, or will never be."""
        if host is None or not self._takers[host, version.salt]:
            return
        self._takers[host, version.salt] -= 1
        if not self._takers[host, version.salt]:
            del self._takers[host, version.salt], self._promised[host][version.salt]

    async def keep(self, shelf: HasCatalog) -> None:
        """Evict what is too much on any host now, as after a budget was lowered or the disk filled by others."""
        for server in self._hosts:
            if server.sees_disk:
                async with self._locks[server.name]:
                    owners = {document.owner for document in shelf.catalog}
                    for whose in (*(owner for owner in owners if self._quota_bytes(owner) is not None), None):
                        try:
                            await self._make_room(shelf, server.name, 0, None, whose)
                        except StorageFull as error:
                            log.warning("disk_over_budget", host=server.name, tenant=whose, error=str(error))

    # --- inside

    def _quota_bytes(self, owner: Owner) -> int | None:
        """What the owner's documents may take; None where only the disk limits them."""
        quota_gib = self._limits(TenantId(owner)).disk_gib if owner != SHARED else None
        return None if quota_gib is None else round(quota_gib * GIB)

    def _budgets(self, owner: Owner | None) -> tuple[Owner | None, ...]:
        """What has to have room for a document of this owner: its quota, where it has one, and (None) the whole disk."""
        return (owner, None) if owner is not None and self._quota_bytes(owner) is not None else (None,)

    async def _make_room(self, shelf: HasCatalog, host: str, need_bytes: int, writing: Salt | None, whose: Owner | None) -> None:
        """`writing` needs `need_bytes`; what was promised to the others is theirs. `whose`: an owner's alone may leave."""
        while True:
            others = self._promised[host].keys() - {writing}
            disk = await self._disk(shelf.catalog, host, others, whose)
            answer = make_room(disk, self._kept(shelf.catalog, host, whose), need_bytes)
            if isinstance(answer, NoRoom):
                raise self._full(answer, whose)
            for salt in answer.evict:
                if any(one.exempt for one in self._kept(shelf.catalog, host, whose) if one.salt == salt):
                    break  # asked or pinned while another was deleted: decided anew
                await self._evict(host, salt, need_bytes)
            else:
                return

    async def _evict(self, host: str, salt: Salt, need_bytes: int) -> None:
        tier = self._ledger.disk(host)
        size_bytes = tier.size_bytes(salt)
        try:
            await self._hosts.delete(salt, tier.keys(salt), ram=False, host=host)
        except OSError as error:
            raise StorageFull(f"Nothing could be evicted from the disk tier: {error}") from error
        self._telemetry.evicted_bytes.add(size_bytes, {HOST: host})
        log.info("evicted_from_disk", host=host, salt=salt[:12], size_bytes=size_bytes, for_bytes=need_bytes)

    async def _disk(self, catalog: Catalog, host: str, promised: Container[Salt], whose: Owner | None) -> Disk:
        """The host's disk now, of the promises only these counted; or as much of it as an owner may have.

        Raises StorageFull where it can't be looked at: nothing should be written to it either.
        """
        if whose is not None:
            return Disk(
                used_bytes=sum(one.size_bytes for one in self._kept(catalog, host, whose)),
                free_bytes=None,
                budget_bytes=self._quota_bytes(whose),
                promised_bytes=self.promised_bytes(
                    host, {salt for salt in self._promised[host] if salt in promised and _is_of(catalog, salt, whose)}
                ),
            )
        server = self._hosts.get(host)
        try:
            free_bytes = await server.free_bytes() if server is not None else None
        except OSError as error:
            raise StorageFull(f"The disk tier can't be looked at: {error}") from error
        config = self._config
        return Disk(
            used_bytes=self._ledger.disk(host).total_bytes,
            free_bytes=free_bytes,
            budget_bytes=None if config.budget_gib is None else round(config.budget_gib * GIB),
            floor_bytes=round(config.min_free_gib * GIB),
            low_watermark=config.low_watermark,
            promised_bytes=self.promised_bytes(host, promised),
        )

    def _kept(self, catalog: Catalog, host: str, whose: Owner | None) -> Iterator[Kept]:
        """Everything on the host's disk, or an owner's. What no document can use goes first."""
        for salt, size_bytes in self._ledger.disk(host).salts.items():
            if whose is not None and not _is_of(catalog, salt, whose):
                continue
            document, version = catalog.of_salt(salt) or (None, None)
            if version is not None and not self._reading.reads(version):
                document = version = None
            used_at = max(self._uses.last((document.owner, document.id)), version.created_at) if document and version else 0.0
            yield Kept(salt, size_bytes, used_at, self._exempt(host, salt, document, version))

    def _exempt(self, host: str, salt: Salt, document: Document | None, version: Version | None) -> Exempt | None:
        if salt in self._promised[host]:
            return Exempt.WRITING
        if self._ledger.in_use(salt):
            return Exempt.IN_USE
        if document is None or version is None:
            return None
        if version is document.incoming and version.state is not VersionState.FAILED:
            return Exempt.WRITING
        return Exempt.PINNED if document.pinned else None

    def _full(self, answer: NoRoom, whose: Owner | None) -> StorageFull:
        quota_bytes = self._quota_bytes(whose) if whose is not None else None
        if quota_bytes is not None:
            return QuotaExceeded(
                f"The document has no room in the {quota_bytes / 2**20:,.0f} MiB that this tenant's documents may take on the disk: "
                f"{answer}. Remove or unpin documents, or have the operator raise the tenant's `disk_gib`.",
                limit=quota_bytes,
            )
        return StorageFull(
            f"The disk tier has no room: {answer}. Remove or unpin documents, or raise `disk.budget_gib` "
            "(`disk.min_free_gib` keeps space free for others)."
        )


def _is_of(catalog: Catalog, salt: Salt, owner: Owner) -> bool:
    """Whether this is KV of a document of theirs."""
    found = catalog.of_salt(salt)
    return found is not None and found[0].owner == owner
