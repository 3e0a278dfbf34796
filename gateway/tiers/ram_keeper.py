"""Keeps room in each host's RAM tier, by documents, before the KV server has to make it by chunks.

The server needs as much free RAM again as what it stores or loads at once (it encrypts there), makes no room for a load,
and where there is none a question reads its whole document again. So some is kept free, the documents of least worth
going first; which those are, a policy says (`router/policies.py`). What is beyond its tenant's limit
(`gateway/tiers/ram_quotas.py`) goes before any other.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from gateway.pool import WorkerPool
from gateway.shelf.documents import Shelf
from gateway.tiers.hosts import Hosts
from gateway.tiers.ram_quotas import RamQuotas
from observability.telemetry import HOST, OUTCOME, Telemetry
from router.documents import Owner, Salt, Version
from router.policies import Policy, policy
from router.promotions import Kept, Promotions
from router.residency import Ledger
from router.shares import Outside, Share

log = structlog.get_logger("ram")

LOOK_EVERY_S = 1.0
USABLE = 0.78
"""Of the tier: the KV server begins to evict at 80 %, chunk by chunk, which leaves parts of documents."""
SPARE_AT_LEAST, SPARE_AT_MOST = 0.1, 0.5
"""What is kept free of it: twice the largest document, for it and for its decrypting; but within these shares."""


class RamKeeper:
    def __init__(
        self,
        shelf: Shelf,
        pool: WorkerPool,
        hosts: Hosts,
        ledger: Ledger,
        quotas: RamQuotas,
        telemetry: Telemetry,
        *,
        policy_name: str,
        token_bytes: float,
        now: Callable[[], float],
    ) -> None:
        self._shelf = shelf
        self._pool = pool
        self._hosts = hosts
        self._ledger = ledger
        self._quotas = quotas
        self._telemetry = telemetry
        self._policy_name = policy_name
        self._token_bytes = token_bytes
        self._now = now
        self.capacity_bytes: dict[str, int] = {}
        """Of each host's RAM tier that could be asked."""
        self.promotions: dict[str, Promotions[str]] = {}
        """What was brought ahead to each of them: it is left in peace until it had its chance."""
        self._policies: dict[str, Policy[str]] = {}
        self._known: dict[str, dict[Salt, int]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Two that evict at once would count the same documents as their room."""
        self._coming: defaultdict[str, list[Version]] = defaultdict(list)
        """What is being restored to each of them, and has not come yet."""

    def __repr__(self) -> str:
        return f"<RamKeeper {self._policy_name} {self.capacity_bytes}>"

    def used(self, version: Version) -> None:
        """A question was asked about this version."""
        for host, order in self._policies.items():
            self._tell(host, order)
            order.used(version.salt, self._size_bytes(version), self.restore_s(version, host), self._now())

    def policy(self, host: str) -> Policy[str] | None:
        """The host's policy, told of what came and went. None while the host could not be asked for its size."""
        order = self._policies.get(host)
        if order is not None:
            self._tell(host, order)
        return order

    def restore_s(self, version: Version, host: str) -> float:
        """How much longer a question waits where the version is not in RAM: to restore it from disk, or to read it again.

        One that is being read is on disk by the time it leaves RAM.
        """
        costs = self._pool.costs
        a_thousand = costs.disk_s if self._ledger.disk(host).size_bytes(version.salt) else costs.reading_s
        return a_thousand * version.prefix_tokens / 1000

    def usable_bytes(self, host: str) -> int:
        return round(USABLE * self.capacity_bytes.get(host, 0))

    def target_bytes(self, host: str) -> int:
        """What the host's RAM should hold at most while nothing is under way."""
        usable = self.usable_bytes(host)
        largest = round(self._shelf.catalog.largest_tokens * self._token_bytes)
        return usable - round(min(max(2 * largest, SPARE_AT_LEAST * usable), SPARE_AT_MOST * usable))

    async def make_room(self, version: Version, host: str | None) -> bool:
        """See to it that the version can be stored in this host's RAM, or restored to it, at once: room for it twice,
        beside that of whatever else is coming (`room`). Where its owner may take no more than it has, its own leave first.

        False where that can't be had even with everything evicted that may be, or only by a larger tier: then nothing is
        evicted. True too where RAM's size isn't known.
        """
        if host is None or host not in self.capacity_bytes:
            return True
        missing = self._missing_bytes(version, host)
        if missing > self.usable_bytes(host):
            return False
        coming = {other.salt: self._missing_bytes(other, host) for other in self._coming[host]} | {version.salt: missing}
        if (found := self._shelf.catalog.of_salt(version.salt)) is not None:
            await self._keep_limits(host, (found[0].owner,), coming)
        return await self._evict(host, self.usable_bytes(host) - 2 * sum(coming.values()), version.salt)

    @asynccontextmanager
    async def room(self, version: Version, host: str | None) -> AsyncIterator[bool]:
        """As `make_room`, and kept free of others as long as this is open: until the version has come."""
        coming = self._coming[host] if host is not None else []
        coming.append(version)
        try:
            yield await self.make_room(version, host)
        finally:
            coming.remove(version)

    def exempt(self, *more: Salt) -> Container[object]:
        """What must not leave RAM, now and whenever it is asked: pinned documents, what questions and readings use, `more`."""
        return _Exempt(self._shelf, self._ledger, more)

    @asynccontextmanager
    async def restoring(self, version: Version, ids: Sequence[int], host: str | None) -> AsyncIterator[None]:
        """See to it that a question can restore the version from this host's disk, while this is open; what is too large
        for that at once is brought in steps, here."""
        async with self.room(version, host) as made:
            if host is not None and not made:
                try:
                    await self._hosts.prefetch(version, ids, host)
                except OSError as error:
                    log.info("not_brought", host=host, error=str(error))
            yield

    async def run(self) -> None:
        """Make room again and again, until cancelled."""
        while True:
            for server in self._hosts:
                memory = await server.memory()
                if memory is not None and memory.capacity_bytes:
                    self._learn(server.name, memory.capacity_bytes)
                    await self.trim(server.name)
            await asyncio.sleep(LOOK_EVERY_S)

    async def trim(self, host: str) -> None:
        """Evict from the host's RAM what is beyond its tenant's limit, then what is above the target."""
        await self._keep_limits(host, None, {})
        await self._evict(host, self.target_bytes(host))

    async def _keep_limits(self, host: str, owners: Collection[Owner] | None, coming: Mapping[Salt, int]) -> None:
        """Have documents of these owners (None: of all) leave until their limits hold with what is coming, in bytes."""
        if (order := self._policies.get(host)) is None or not self._beyond(host, owners, coming):
            return
        async with self._locks[host]:
            self._tell(host, order)
            for owner, (share, need_bytes) in self._beyond(host, owners, coming).items():
                for salt in self._victims(host, order, need_bytes, Outside(share, self.exempt(*coming))):
                    # As in `_evict`; and a limit may be raised meanwhile.
                    if self._beyond(host, (owner,), coming) and salt not in self.exempt(*coming):
                        await self.evict(host, salt, for_others=False)

    def _beyond(self, host: str, owners: Collection[Owner] | None, coming: Mapping[Salt, int]) -> dict[Owner, tuple[Share, int]]:
        """Who of them would have more there than its limit, and by how many bytes."""
        found = {}
        for owner, share in self._quotas.shares(host, owners).items():
            need_bytes = sum(size_bytes for salt, size_bytes in coming.items() if salt in share.keys) - share.room_bytes
            if need_bytes > 0:
                found[owner] = share, need_bytes
        return found

    async def _evict(self, host: str, target_bytes: int, *spared: Salt) -> bool:
        """Evict until RAM holds no more than that, the needless first; whether that was reached."""
        order = self._policies.get(host)
        if order is None or self._ledger.ram(host).total_bytes <= target_bytes:
            return True
        async with self._locks[host]:
            for salt in self._leaving(host, order, target_bytes, spared):
                # What is asked or pinned while others are deleted stays; what left by itself is room, too.
                if self._ledger.ram(host).total_bytes > target_bytes and salt not in self.exempt(*spared):
                    await self.evict(host, salt)
        return self._ledger.ram(host).total_bytes <= target_bytes

    def _leaving(self, host: str, order: Policy[str], target_bytes: int, spared: tuple[Salt, ...]) -> tuple[Salt, ...]:
        """What is to leave RAM, in this order. Where not enough may go, it is all that may."""
        self._tell(host, order)
        exempt = self.exempt(*spared)
        tier, catalog = self._ledger.ram(host), self._shelf.catalog
        needless = [salt for salt in tier.salts if catalog.of_salt(salt) is None and salt not in exempt]
        for share, need_bytes in self._beyond(host, None, {}).values():
            needless += self._victims(host, order, need_bytes, Outside(share, exempt))
        too_much = tier.total_bytes - target_bytes - sum(tier.size_bytes(salt) for salt in needless)
        if too_much <= 0:
            return tuple(needless)
        return (*needless, *self._victims(host, order, too_much, self.exempt(*spared, *needless)))

    def _victims(self, host: str, order: Policy[str], need_bytes: int, exempt: Container[object]) -> tuple[Salt, ...]:
        """The least worthy that are so many bytes; what was brought ahead only where the others are not enough. Where not enough
        may go, it is all that may."""
        now = self._now()
        victims = order.victims(need_bytes, now, Kept(self.promotions[host], now, exempt)) or order.victims(need_bytes, now, exempt)
        return tuple(map(Salt, victims)) or tuple(salt for salt in self._ledger.ram(host).salts if salt not in exempt)

    async def evict(self, host: str, salt: Salt, *, for_others: bool = True) -> None:
        """Take one version out of the host's RAM, for others or for its owner's limit; what is stored on disk stays."""
        size_bytes = self._ledger.ram(host).size_bytes(salt)
        try:
            await self._hosts.delete(salt, self._ledger.ram(host).keys(salt), disk=False, host=host)
        except OSError as error:
            log.warning("not_evicted_from_ram", host=host, error=str(error))
            return
        promotions, now = self.promotions[host], self._now()
        # How soon all RAM is renewed isn't told by one who is at its limit.
        if promotions.evicted(salt, now) if for_others else promotions.left(salt, now):
            self._telemetry.prefetches.add(1, {OUTCOME: "in_vain", HOST: host})
        self._telemetry.evicted_ram_bytes.add(size_bytes, {HOST: host})
        log.debug("evicted_from_ram", host=host, salt=salt[:12], size_bytes=size_bytes)

    # --- inside

    def _learn(self, host: str, capacity_bytes: int) -> None:
        if self.capacity_bytes.get(host) != capacity_bytes:
            self.capacity_bytes[host] = capacity_bytes
            self._policies[host] = policy(self._policy_name, capacity_bytes)
            self.promotions.setdefault(host, Promotions())
            self._known[host] = {}

    def _tell(self, host: str, order: Policy[str]) -> None:
        """Tell the policy what came to RAM and left it since it was asked last."""
        known, there = self._known[host], self._ledger.ram(host).salts
        if known == there:
            return
        for salt in known.keys() - there.keys():
            order.removed(salt)
            del known[salt]
        for salt, size_bytes in there.items():
            if known.get(salt) != size_bytes:
                found = self._shelf.catalog.of_salt(salt)
                cost_s = self.restore_s(found[1], host) if found is not None else 0.0
                order.added(salt, size_bytes, cost_s, self._now())
                known[salt] = size_bytes

    def _missing_bytes(self, version: Version, host: str) -> int:
        """What of the version is not in this host's RAM."""
        return max(self._size_bytes(version) - self._ledger.ram(host).size_bytes(version.salt), 0)

    def _size_bytes(self, version: Version) -> int:
        return round(version.prefix_tokens * self._token_bytes)


class _Exempt:
    def __init__(self, shelf: Shelf, ledger: Ledger, more: tuple[Salt, ...]) -> None:
        self._shelf, self._ledger, self._more = shelf, ledger, more

    def __contains__(self, salt: Any) -> bool:
        found = self._shelf.catalog.of_salt(salt)
        return salt in self._more or self._ledger.in_use(salt) or (found is not None and found[0].pinned)
