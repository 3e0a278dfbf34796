"""What is measured of the whole now and then: gauges, read when metrics are collected."""

from __future__ import annotations

from collections.abc import Sized

from gateway.pool import WorkerPool
from gateway.shelf.documents import Shelf
from gateway.tiers.disk_keeper import GIB
from gateway.tiers.hosts import Hosts
from gateway.upkeep.housekeeper import Housekeeper
from observability import telemetry as names
from observability.telemetry import Telemetry
from router.residency import Ledger, Tier


def observe(
    telemetry: Telemetry,
    shelf: Shelf,
    pool: WorkerPool,
    queue: Sized,
    hosts: Hosts,
    housekeeper: Housekeeper,
    ledger: Ledger,
    *,
    budget_gib: float | None,
) -> None:
    """`queue`: the questions that wait for a worker. `budget_gib`: of each host's disk tier; None where only `min_free_gib` limits it, which has no gauge."""

    def documents() -> list[tuple[float, dict[str, str]]]:
        states: dict[str, int] = {}
        for document in shelf.catalog:
            if document.part is None:
                state = shelf.catalog.state(document).value
                states[state] = states.get(state, 0) + 1
        return [(count, {names.STATE: state}) for state, count in states.items()]

    telemetry.observe(names.DOCUMENTS_GAUGE, "Documents, by the state of the version that answers", documents)
    telemetry.observe(names.WORKERS_GAUGE, "Workers that can answer", lambda: [(pool.healthy, {})])
    telemetry.observe(
        names.RUNNING_GAUGE,
        "Requests under way, by worker",
        lambda: [(count, {names.WORKER: name}) for name, count in pool.running],
    )
    telemetry.observe(names.QUEUE_GAUGE, "Questions that wait for a worker with room", lambda: [(len(queue), {})])
    telemetry.observe(names.TIER_BYTES_GAUGE, "What each tier is believed to hold, in bytes", lambda: _tier_bytes(ledger))
    telemetry.observe(
        names.KV_SERVERS_GAUGE,
        "1 for a KV server that is healthy, 0 for one that is away, by host",
        lambda: [(float(server.name not in hosts.problems), {names.HOST: server.name}) for server in hosts],
    )
    telemetry.observe(
        names.DISK_BUDGET_GAUGE,
        "What documents' KV may take on each host's disk, in bytes",
        lambda: [(budget_gib * GIB, {names.HOST: host}) for host in ledger.hosts] if budget_gib is not None else [],
    )
    telemetry.observe(
        names.FOREIGN_FILES_GAUGE,
        "Files in each host's disk tier that are no chunks, and are left alone",
        lambda: [(len(files), {names.HOST: host}) for host, files in housekeeper.foreign.items()],
    )


def _tier_bytes(ledger: Ledger) -> list[tuple[float, dict[str, str]]]:
    return [
        (tier.total_bytes, {names.TIER: name.value, names.HOST: host})
        for host in ledger.hosts
        for name, tier in ((Tier.RAM, ledger.ram(host)), (Tier.DISK, ledger.disk(host)))
    ]
