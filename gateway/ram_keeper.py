"""Keeps room in each host's RAM tier, by documents, before the KV server has to make it by chunks.

The server needs as much free RAM again as what it stores or loads at once (it encrypts there), makes no room for a load,
and where there is none a question reads its whole document again. So some is kept free, the documents of least worth
going first; which those are, a policy says (`router/policies.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence

import structlog

from gateway.documents import Shelf
from gateway.hosts import Hosts
from gateway.pool import WorkerPool
from observability.telemetry import HOST, Telemetry
from router.documents import Salt, Version
from router.policies import Policy, policy
from router.residency import Ledger

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
        self._telemetry = telemetry
        self._policy_name = policy_name
        self._token_bytes = token_bytes
        self._now = now
        self.capacity_bytes: dict[str, int] = {}
        """Of each host's RAM tier that could be asked."""
        self._policies: dict[str, Policy[str]] = {}
        self._known: dict[str, dict[Salt, int]] = {}

    def __repr__(self) -> str:
        return f"<RamKeeper {self._policy_name} {self.capacity_bytes}>"

    def used(self, version: Version) -> None:
        """A question was asked about this version."""
        for host, order in self._policies.items():
            order.used(version.salt, self._size_bytes(version), self.restore_s(version, host), self._now())

    def policy(self, host: str) -> Policy[str] | None:
        """The host's policy, told of what came and went. None while the host could not be asked for its size."""
        order = self._policies.get(host)
        if order is not None:
            self._tell(host, order)
        return order

    def restore_s(self, version: Version, host: str) -> float:
        """How much longer a question waits where the version is not in RAM: to restore it from disk, or to read it again."""
        costs = self._pool.costs
        a_thousand = costs.disk_s if self._ledger.disk_share(version, host) >= 1 else costs.reading_s
        return a_thousand * version.prefix_tokens / 1000

    def usable_bytes(self, host: str) -> int:
        return round(USABLE * self.capacity_bytes.get(host, 0))

    def target_bytes(self, host: str) -> int:
        """What the host's RAM should hold at most while nothing is under way."""
        usable = self.usable_bytes(host)
        largest = max((self._size_bytes(v) for d in self._shelf.catalog for v in d.versions), default=0)
        return usable - round(min(max(2 * largest, SPARE_AT_LEAST * usable), SPARE_AT_MOST * usable))

    async def make_room(self, version: Version, host: str | None) -> bool:
        """See to it that the version can be stored in this host's RAM, or restored to it, at once: room for it twice.

        False where that can't be had even with everything evicted that may be; True too where RAM's size isn't known.
        """
        if host is None or host not in self.capacity_bytes:
            return True
        missing = max(self._size_bytes(version) - self._ledger.ram(host).size_bytes(version.salt), 0)
        return await self._evict(host, self.usable_bytes(host) - 2 * missing, self.exempt() | {version.salt})

    def exempt(self) -> frozenset[Salt]:
        """What must not leave RAM: pinned documents, and what questions and readings use now."""
        return frozenset(
            version.salt
            for document in self._shelf.catalog
            for version in document.versions
            if document.pinned or self._ledger.in_use(version.salt)
        )

    async def ready(self, version: Version, ids: Sequence[int], host: str | None) -> None:
        """See to it that a question can restore the version from this host's disk; what is too large for that at once is
        brought in steps, here."""
        if host is None or await self.make_room(version, host):
            return
        try:
            await self._hosts.prefetch(version, ids, host)
        except OSError as error:
            log.info("not_brought", host=host, error=str(error))

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
        """Evict from the host's RAM what is above the target."""
        await self._evict(host, self.target_bytes(host), self.exempt())

    async def _evict(self, host: str, target_bytes: int, exempt: Container[str]) -> bool:
        """Evict until RAM holds no more than that, the needless first; whether that was reached."""
        tier, order = self._ledger.ram(host), self.policy(host)
        if order is None or tier.total_bytes <= target_bytes:
            return True
        known = self._versions()
        needless = [salt for salt in tier.salts if salt not in known and salt not in exempt]
        too_much = tier.total_bytes - target_bytes - sum(tier.size_bytes(salt) for salt in needless)
        victims = order.victims(too_much, self._now(), exempt) if too_much > 0 else ()
        if too_much > 0 and not victims:  # not enough may go: then all that may
            victims = tuple(salt for salt in tier.salts if salt in known and salt not in exempt)
        for salt in (*needless, *map(Salt, victims)):
            await self.evict(host, salt)
        return tier.total_bytes <= target_bytes

    async def evict(self, host: str, salt: Salt) -> None:
        """Take one version out of the host's RAM; what is stored on disk stays."""
        size_bytes = self._ledger.ram(host).size_bytes(salt)
        try:
            await self._hosts.delete(salt, self._ledger.ram(host).keys(salt), disk=False, host=host)
        except OSError as error:
            log.warning("not_evicted_from_ram", host=host, error=str(error))
            return
        self._telemetry.evicted_ram_bytes.add(size_bytes, {HOST: host})
        log.debug("evicted_from_ram", host=host, salt=salt[:12], size_bytes=size_bytes)

    # --- inside

    def _learn(self, host: str, capacity_bytes: int) -> None:
        if self.capacity_bytes.get(host) != capacity_bytes:
            self.capacity_bytes[host] = capacity_bytes
            self._policies[host] = policy(self._policy_name, capacity_bytes)
            self._known[host] = {}

    def _tell(self, host: str, order: Policy[str]) -> None:
        """Tell the policy what came to RAM and left it since it was asked last."""
        known, there = self._known[host], self._ledger.ram(host).salts
        for salt in set(known) - set(there):
            order.removed(salt)
            del known[salt]
        versions = self._versions()
        for salt, size_bytes in there.items():
            if known.get(salt) != size_bytes:
                version = versions.get(salt)
                cost_s = self.restore_s(version, host) if version is not None else 0.0
                order.added(salt, size_bytes, cost_s, self._now())
                known[salt] = size_bytes

    def _versions(self) -> dict[Salt, Version]:
        return {version.salt: version for document in self._shelf.catalog for version in document.versions}

    def _size_bytes(self, version: Version) -> int:
        return round(version.prefix_tokens * self._token_bytes)
