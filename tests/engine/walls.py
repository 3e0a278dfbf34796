"""What one tenant could learn of another's documents by the clock, measured on the real engine."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from scipy import stats

from router.documents import Salt, Version
from router.prompts import ids_from_bytes
from tests.engine.conftest import RealGateway

QUESTION = "What is the code word?"
TEXT = "# Rules of the house\n\n" + "The gate closes at ten in the evening, and the key hangs behind the door. " * 24

Exchange = Callable[[], Awaitable[float]]
"""Seconds that one took."""


class Compared(msgspec.Struct, frozen=True):
    """Two kinds of exchange, in seconds each, and the probability of such a difference where there is none
    (two-sample Kolmogorov-Smirnov)."""

    first: Sequence[float]
    second: Sequence[float]
    p_value: float


async def compared(first: Exchange, second: Exchange, samples: int) -> Compared:
    """Both by turns, in an order that chance decides, so that whatever else the machine does meets both alike."""
    chance, found = random.Random(1), ([], [])  # type: ignore[var-annotated]  # noqa: S311
    for _ in range(samples):
        order = [0, 1]
        chance.shuffle(order)
        for which in order:
            found[which].append(await (first, second)[which]())
    return Compared(*found, float(stats.ks_2samp(*found).pvalue))


class Two:
    """Tenant a, whose key is the gateway's own, and tenant b, which has a document whose KV is at hand and one whose KV is nowhere."""

    def __init__(self, gateway: RealGateway, a: str, b: str) -> None:
        self.gateway = gateway
        self.a = a
        self.b = b


async def two(gateway: RealGateway) -> Two:
    """Reads `rules-mine` for a, the same text as `rules-warm` for b, and another as `rules-cold`, whose KV is removed."""
    both = Two(gateway, gateway.key, await gateway.new_key("tenant-b"))
    await gateway.read("rules-mine", TEXT)
    await gateway.read("rules-warm", TEXT, key=both.b)
    await gateway.read("rules-cold", TEXT.replace("gate", "door"), key=both.b)
    await gateway.move("rules-cold", "evict", key=both.b, tier="all")
    return both


async def version_of(gateway: RealGateway, owner: str, document_id: str) -> Version:
    (found,) = [d.current for d in await gateway.store.documents() if (d.owner, d.id) == (owner, document_id)]
    assert found is not None
    return found


async def prefix_of(gateway: RealGateway, version: Version) -> list[int]:
    return list(ids_from_bytes((await gateway.store.content(version.id)).prefix_ids))


def asked(gateway: RealGateway, document: str, *, key: str, status: int, bypass: bool = False) -> Exchange:
    """A question that names this document, to the end of its answer."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "document": document, "max_tokens": 1}
    headers = {"authorization": f"Bearer {key}"} | ({"cache-control": "no-cache"} if bypass else {})

    async def exchange() -> float:
        started = time.perf_counter()
        async with gateway.session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as response:
            await response.read()
            assert response.status == status
        return time.perf_counter() - started

    return exchange


def shown(gateway: RealGateway, document: str, *, key: str, status: int) -> Exchange:
    """A look at this document."""

    async def exchange() -> float:
        started = time.perf_counter()
        url, headers = f"{gateway.url}/v1/documents/{document}", {"authorization": f"Bearer {key}"}
        async with gateway.session.get(url, headers=headers) as response:
            await response.read()
            assert response.status == status
        return time.perf_counter() - started

    return exchange


async def computed(gateway: RealGateway, ids: Sequence[int], salt: str) -> tuple[float, int]:
    """The worker itself is asked for one token behind these: seconds, and how many of them it had already."""
    body: dict[str, Any] = {
        "model": gateway.config.model.name,
        "prompt": [*ids, 1],
        "max_tokens": 1,
        "cache_salt": salt,
        "kv_transfer_params": {"lmcache.max_offload_tokens": 0},
    }
    started = time.perf_counter()
    async with gateway.session.post(f"{dict(gateway.stack.workers)['worker-1']}/v1/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
    return time.perf_counter() - started, (answer["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0


def cold(gateway: RealGateway, ids: Sequence[int]) -> Exchange:
    """The same ids each time, as somebody else's would be met: under a salt of one's own."""

    async def exchange() -> float:
        seconds, cached = await computed(gateway, ids, Salt(secrets.token_hex(32)))
        assert cached == 0
        return seconds

    return exchange


def hit(gateway: RealGateway, ids: Sequence[int], salt: Salt) -> Exchange:
    """The ids of a version, as its owner meets them."""

    async def exchange() -> float:
        seconds, cached = await computed(gateway, ids, salt)
        assert cached > 0
        return seconds

    return exchange
