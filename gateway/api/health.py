"""Whether the gateway can answer now, and what is wrong with what: one report for both `/health/ready`."""

from __future__ import annotations

from typing import Literal

import msgspec

from backends.base import Store
from gateway.pool import WorkerPool
from gateway.shelf.catalog_file import CatalogWatcher
from gateway.shelf.classifier import Classifier
from gateway.tenants.counters import Counters
from gateway.tenants.limits_file import TenantLimits
from gateway.tiers.hosts import Hosts


class Report(msgspec.Struct, frozen=True):
    """`degraded`: questions are answered, but something is missing. `problems`: part → what is wrong with it."""

    status: Literal["ready", "degraded", "unavailable"]
    workers_healthy: int
    workers: int
    problems: dict[str, str]

    @property
    def http_status(self) -> int:
        return 503 if self.status == "unavailable" else 200

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": "5"} if self.status == "unavailable" else {}


class Health:
    def __init__(
        self,
        pool: WorkerPool,
        hosts: Hosts,
        store: Store,
        classifier: Classifier,
        catalog_watcher: CatalogWatcher,
        tenant_limits: TenantLimits,
        counters: Counters,
    ) -> None:
        self._pool = pool
        self._hosts = hosts
        self._store = store
        self._classifier = classifier
        self._catalog_watcher = catalog_watcher
        self._tenant_limits = tenant_limits
        self._counters = counters

    async def report(self) -> Report:
        """Asks the database; what is known of the rest is at most a check interval old."""
        database = await self._store.check()
        parts = {
            **{f"worker {name}": problem for name, problem in self._pool.problems.items()},
            **{f"kv server {name}": problem for name, problem in self._hosts.problems.items()},
            "database": database,
            "embedding": self._classifier.problem,
            "catalog": "; ".join(self._catalog_watcher.problems),
            "tenants": "; ".join(self._tenant_limits.problems),
            "limits": self._counters.problem,
        }
        problems = {part: problem for part, problem in parts.items() if problem}
        able = self._pool.healthy > 0 and database is None
        status: Literal["ready", "degraded", "unavailable"] = "unavailable" if not able else "degraded" if problems else "ready"
        return Report(status, self._pool.healthy, len(self._pool), problems)
