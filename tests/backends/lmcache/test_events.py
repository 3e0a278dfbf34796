"""LMCache's reports, as the real server was heard to send them, into beliefs about a host's RAM and disk."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.lmcache.events import CacheEventReceiver
from router.residency import Ledger
from tests.backends.lmcache.reports import HOST, STARTED, batch, body, dropped, entry, in_ram, on_disk, stored
from tests.backends.lmcache.samples import CHUNK_BYTES, FRAME_BYTES, KEYS, MODEL, OTHER, SALT

# --- what a report says


async def test_what_is_stored_in_ram_is_in_ram(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    assert receiver.receive(body(batch(1, "config"), stored(2, KEYS[:3]))) == {"applied": 2, "duplicates": 0, "stale": 0}
    assert (in_ram(ledger), on_disk(ledger)) == (3, 0)
    assert ledger.ram(HOST).size_bytes(SALT) == 3 * CHUNK_BYTES


async def test_what_is_stored_on_disk_is_on_disk(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS[:2], "l2")))
    assert (in_ram(ledger), on_disk(ledger)) == (0, 2)
    assert ledger.disk(HOST).size_bytes(SALT) == 2 * FRAME_BYTES


async def test_what_is_dropped_is_gone_from_that_tier(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS), stored(2, KEYS, "l2"), dropped(3, KEYS[2:]), dropped(4, KEYS[3:], "l2")))
    assert (in_ram(ledger), on_disk(ledger)) == (2, 3)


async def test_events_are_applied_in_order(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS), dropped(2, KEYS), stored(3, KEYS[:1])))
    receiver.receive(body(dropped(4, KEYS[:1]), stored(5, KEYS[:2])))
    assert in_ram(ledger) == 2


async def test_salts_and_hosts_are_kept_apart(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS[:1]), stored(2, KEYS[:2], salt=OTHER), stored(1, KEYS[:3], instance_id="far")))
    assert (in_ram(ledger), in_ram(ledger, salt=OTHER), in_ram(ledger, "far")) == (1, 2, 3)


@pytest.mark.parametrize("tier", ["l1", "l2"])
async def test_an_access_says_nothing(receiver: CacheEventReceiver, ledger: Ledger, tier: str) -> None:
    """LMCache reports it of every chunk of a question that ends, of those that it never stored too."""
    receiver.receive(body(stored(1, KEYS[:1]), batch(2, "access", tier, [entry(key) for key in KEYS], backend="")))
    assert (in_ram(ledger), on_disk(ledger)) == (1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_hash_hex": KEYS[0].hex() + "00" * 16},  # where it encrypts
        {"chunk_hash_hex": "x" * 64},
        {"chunk_hash_hex": ""},
        {"model_name": "/models/other"},
        {"kv_rank": 0x02000200},
        {"object_group_id": 1},
        {"cache_salt": ""},
    ],
)
async def test_other_keys_are_no_chunks(receiver: CacheEventReceiver, ledger: Ledger, changes: dict[str, Any]) -> None:
    other = entry(KEYS[0], size_bytes=9) | {"key": entry(KEYS[0])["key"] | changes}
    receiver.receive(body(batch(1, "store", entries=[other, entry(KEYS[1], size_bytes=9)])))
    assert ledger.ram(HOST).total_bytes == 9
    receiver.receive(body(stored(2, KEYS), batch(3, "delete", entries=[other])))
    assert in_ram(ledger) == 4


async def test_a_host_may_have_the_model_elsewhere(ledger: Ledger, port: int) -> None:
    receiver = CacheEventReceiver("127.0.0.1", port, ledger, model=MODEL, models={"far": "/mnt/smollm2"})
    elsewhere = [entry(key, size_bytes=9, model_name="/mnt/smollm2") for key in KEYS[:3]]
    for name in (HOST, "far"):
        receiver.receive(body(stored(1, KEYS[3:], instance_id=name), batch(2, "store", entries=elsewhere, instance_id=name)))
    assert (ledger.ram(HOST).total_bytes, ledger.ram("far").total_bytes) == (CHUNK_BYTES, 3 * 9)


# --- the sequence


@pytest.mark.parametrize("seq", [1, 2])
async def test_a_batch_that_comes_again_is_ignored(receiver: CacheEventReceiver, ledger: Ledger, seq: int) -> None:
    receiver.receive(body(stored(1, KEYS[:2]), dropped(2, KEYS[1:2])))
    assert receiver.receive(body(stored(seq, KEYS)))["duplicates"] == 1
    assert in_ram(ledger) == 1
    assert receiver.receive(body(stored(3, KEYS)))["applied"] == 1


async def test_a_gap_forgets_what_was_believed_of_the_ram_and_goes_on_from_there(
    receiver: CacheEventReceiver, ledger: Ledger
) -> None:
    receiver.receive(body(stored(1, KEYS[:2]), stored(2, KEYS, "l2"), stored(1, KEYS, instance_id="far")))
    receiver.receive(body(stored(4, KEYS[1:2])))
    assert (in_ram(ledger), ledger.ram(HOST).total_bytes, on_disk(ledger)) == (0, CHUNK_BYTES, 4)
    receiver.receive(body(stored(5, KEYS[:1])))
    assert (in_ram(ledger), in_ram(ledger, "far")) == (2, 4)


async def test_a_server_that_started_anew_has_an_empty_ram(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS), stored(2, KEYS, "l2")))
    receiver.receive(body(stored(1, KEYS[:1], incarnation=STARTED + 60)))
    assert (in_ram(ledger), on_disk(ledger)) == (1, 4)
    assert receiver.receive(body(stored(3, KEYS)))["stale"] == 1
    assert in_ram(ledger) == 1


async def test_a_gateway_that_started_anew_begins_where_the_server_is(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(500, KEYS[:2])))
    receiver.receive(body(stored(501, KEYS[2:])))
    assert in_ram(ledger) == 4


async def test_a_server_that_nobody_knows_is_not_believed(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    assert receiver.receive(body(stored(1, KEYS, instance_id="stranger")))["stale"] == 1
    assert ledger.hosts == (HOST, "far")


async def test_a_silent_server_is_gone(receiver: CacheEventReceiver, ledger: Ledger) -> None:
    receiver.receive(body(stored(1, KEYS), stored(2, KEYS, "l2")))
    now = asyncio.get_running_loop().time()
    receiver.forget_silent(now + 9)
    assert in_ram(ledger) == 4
    receiver.forget_silent(now + 11)
    assert (in_ram(ledger), on_disk(ledger)) == (0, 4)
    receiver.receive(body(stored(3, KEYS[:1])))
    assert in_ram(ledger) == 1
