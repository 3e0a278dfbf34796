"""What the engine itself counts, beside what the gateway's ledger believes: files, memory, hits by tier.

The engine's numbers are the truth here. RAM is told by events, which come up to 1.3 s late: it is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from backends.lmcache.keys import parse_file_name
from router.documents import Version
from tests.engine.conftest import MODEL, RealGateway
from tests.fakes.gateway import eventually

CHUNK = 256
CHUNK_BYTES = 11_796_480
SEAL_BYTES = 29
SETTLED_WITHIN_S = 4.0


@dataclass(frozen=True)
class Hits:
    """Tokens of one question: from the worker's own prefix cache, from LMCache; and where LMCache had them."""

    gpu: int
    external: int
    ram: int
    disk: int

    def less(self, before: Hits) -> Hits:
        return Hits(self.gpu - before.gpu, self.external - before.external, self.ram - before.ram, self.disk - before.disk)


async def version_of(gateway: RealGateway, document_id: str) -> Version:
    """The version that answers."""
    (found,) = [document.current for document in await gateway.store.documents() if document.id == document_id]
    assert found is not None
    return found


async def ask(gateway: RealGateway, document_id: str, question: str, *, keeps: bool = True, **fields: Any) -> dict[str, Any]:
    """Ask, and compare what the ledger said of the tiers before with what the engine then counts; the answer.

    LMCache looks the whole prefix up and brings it to RAM, also where the worker holds it.
    """
    version = await version_of(gateway, document_id)
    believed = await tiers(gateway, document_id)
    before = {worker: await hits(gateway, version, worker) for worker, _ in gateway.stack.workers}
    answer = await gateway.ask(question, document=document_id, **fields)
    worker = answer["worker"]
    met = (await hits(gateway, version, worker)).less(before[worker])
    prefix = version.prefix_tokens
    on_gpu = round(believed.get(("gpu", worker), (0.0, 0))[0] * prefix)
    in_ram, on_disk = (round(believed.get((tier, "lmcache"), (0.0, 0))[0] * prefix) for tier in ("ram", "disk"))
    stored = max(in_ram, on_disk)
    assert met.gpu == on_gpu, f"{document_id}: {believed} but {met}"
    assert met.external == max(stored - on_gpu, 0), f"{document_id}: {believed} but {met}"
    assert (met.ram, met.disk) == (in_ram, stored - in_ram), f"{document_id}: {believed} but {met}"
    assert answer["cached_tokens"] == max(on_gpu, stored)
    slowest = "gpu" if on_gpu == prefix else "ram" if in_ram == prefix else "disk" if on_disk == prefix else "none"
    assert answer["cache-tier"] == slowest
    return answer


async def tiers(gateway: RealGateway, document_id: str) -> dict[tuple[str, str], tuple[float, int]]:
    """(tier, where) → (share, bytes), as a client is told."""
    _, document = await gateway.get(f"/v1/documents/{document_id}")
    return {(held["tier"], held["where"]): (held["share"], held["size_bytes"]) for held in document["tiers"]}


async def agree(gateway: RealGateway) -> None:
    """Every document's files are those that the ledger has, and the RAM's sum is what LMCache uses: once all is settled."""

    async def agrees() -> bool:
        return not await differences(gateway)

    try:
        await eventually(agrees, within_s=SETTLED_WITHIN_S)
    except TimeoutError:
        raise AssertionError("\n".join(await differences(gateway))) from None


async def differences(gateway: RealGateway) -> list[str]:
    """In words, where the ledger and the engine differ now."""
    found = []
    files: dict[str, dict[bytes, int]] = {}
    for salt, key, size_bytes in stored(gateway):
        files.setdefault(salt, {})[key] = size_bytes
    versions = {v.salt: d.id for d in await gateway.store.documents() for v in d.versions}
    found += [f"{len(chunks)} files of no document" for salt, chunks in files.items() if salt not in versions]
    disk, ram = gateway.ledger.disk("lmcache"), gateway.ledger.ram("lmcache")
    for salt in files.keys() | set(disk.salts):
        there, believed = sum(files.get(salt, {}).values()), disk.salts.get(salt, 0)
        if there != believed or files.get(salt, {}).keys() != set(disk.keys(salt)):
            found.append(f"{versions.get(salt)}: {there} bytes on disk, believed {believed}")
    used_bytes = await memory_used(gateway)
    if used_bytes != ram.total_bytes:
        found.append(f"{used_bytes} bytes in RAM, believed {ram.total_bytes}: {dict(ram.salts)}")
    for document in await gateway.store.documents():
        if document.current is not None:
            told = await tiers(gateway, document.id)
            for name, tier in (("ram", ram), ("disk", disk)):
                size_bytes = told.get((name, "lmcache"), (0.0, 0))[1]
                if size_bytes != tier.size_bytes(document.current.salt):
                    found.append(f"{document.id}: told of {size_bytes} bytes on {name}")
    return found


def stored(gateway: RealGateway) -> Iterator[tuple[str, bytes, int]]:
    """(salt, key, bytes) of each file of the disk tier."""
    for path in gateway.files():
        named = parse_file_name(str(MODEL), path.name)
        assert named is not None, path.name
        with suppress(FileNotFoundError):  # deleted just now
            yield *named, path.stat().st_size


async def hits(gateway: RealGateway, version: Version, worker: str) -> Hits:
    """All that the worker, and of this version LMCache, counted so far."""
    url = dict(gateway.stack.workers)[worker]
    vllm, lmcache = await _metrics(gateway, url), await _metrics(gateway, gateway.stack.lmcache_url)
    return Hits(
        gpu=_sum(vllm, "vllm:prefix_cache_hits_total"),
        external=_sum(vllm, "vllm:external_prefix_cache_hits_total"),
        ram=_sum(lmcache, "lmcache_mp_lookup_hit_l1_tokens_total", cache_salt=version.salt),
        disk=_sum(lmcache, "lmcache_mp_lookup_hit_l2_tokens_total", cache_salt=version.salt),
    )


async def memory_used(gateway: RealGateway) -> int:
    async with gateway.session.get(f"{gateway.stack.lmcache_url}/status") as response:
        status = msgspec.json.decode(await response.read())
    return sum(tier["memory_used_bytes"] for tier in status["storage_manager"]["l1_managers"].values())


def counted(gateway: RealGateway, name: str) -> int:
    """The sum of one of the gateway's own metrics."""
    return _sum(_parsed(gateway.telemetry.prometheus().decode()), name)


async def _metrics(gateway: RealGateway, url: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    async with gateway.session.get(f"{url}/metrics") as response:
        return _parsed(await response.text())


def _parsed(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def _sum(metrics: dict[str, list[tuple[dict[str, str], float]]], name: str, **labels: str) -> int:
    return round(sum(value for had, value in metrics.get(name, ()) if labels.items() <= had.items()))
