"""vLLM's KV events, encoded with structs like its own, into beliefs about each worker's GPU tier."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from backends.kv_events import KVEventListener
from router.documents import Salt, Version, VersionId
from router.gpu_tier import GpuTier
from router.residency import Ledger
from tests.fakes.ports import free_port

BLOCK_TOKENS = 128


class VllmEvent(msgspec.Struct, tag=True, omit_defaults=True):
    pass


class BlockStored(VllmEvent):
    """As vLLM 0.32 has it, with the fields that kvshelf does not read."""

    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(VllmEvent):
    block_hashes: list[int | bytes]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(VllmEvent):
    pass


class Batch(msgspec.Struct, array_like=True, omit_defaults=True):
    ts: float
    events: list[Any]
    data_parallel_rank: int | None = None


VERSION = Version(
    id=VersionId("v1"),
    digest="d",
    fingerprint="f",
    salt=Salt("5a17"),
    document_tokens=500,
    prefix_tokens=4 * BLOCK_TOKENS,
)


def stored(
    *hashes: int | bytes, parent: int | bytes | None = None, salt: str | None = "5a17", medium: str | None = "GPU"
) -> BlockStored:
    """Blocks in a row. The salt stands at the first block of a prefix only."""
    first = (salt,) if parent is None and salt is not None else None
    extra_keys = [first, *[None] * (len(hashes) - 1)]
    tokens = [7] * (BLOCK_TOKENS * len(hashes))
    return BlockStored(list(hashes), parent, tokens, BLOCK_TOKENS, None, medium, None, extra_keys, 0, "full_attention")


def frames(sequence: int, *events: Any, worker: str = "w1") -> list[bytes]:
    return [worker.encode(), sequence.to_bytes(8, "big"), msgspec.msgpack.encode(Batch(1.5, list(events), 0))]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def listener(ledger: Ledger) -> KVEventListener:
    return KVEventListener("tcp://127.0.0.1:1", ledger)


def share(ledger: Ledger, worker: str = "w1") -> float:
    ledger.check()
    return ledger.gpu_share(VERSION, worker)


@pytest.mark.parametrize("hashes", [[1, 2, 3, 4], [b"\x01" * 32, b"\x02" * 32, b"\x03" * 32, b"\x04" * 32]])
def test_blocks_count_for_the_version_whose_salt_the_first_names(
    listener: KVEventListener, ledger: Ledger, hashes: list[int | bytes]
) -> None:
    listener.receive(frames(0, stored(*hashes[:2])))
    assert share(ledger) == 0.5
    listener.receive(frames(1, stored(*hashes[2:], parent=hashes[1])))
    assert share(ledger) == 1.0


def test_a_salt_is_found_in_the_event_that_names_it_only(listener: KVEventListener, ledger: Ledger) -> None:
    listener.receive(frames(0, stored(1, 2, salt="0the5"), stored(3, 4, parent=2, salt=None)))
    assert share(ledger) == 0.0


def test_a_prefix_without_a_salt_is_nobodys(listener: KVEventListener, ledger: Ledger) -> None:
    plain = stored(5, 6, salt=None)
    listener.receive(frames(0, plain, msgspec.structs.replace(plain, extra_keys=None), stored(7, parent=6)))
    assert repr(ledger.gpu("w1")) == "<GpuTier 0 blocks of 0 salts>"


def test_removed_blocks_count_no_more(listener: KVEventListener, ledger: Ledger) -> None:
    listener.receive(frames(0, stored(1, 2, 3, 4)))
    listener.receive(frames(1, BlockRemoved([4, 3, 99], "GPU")))
    assert share(ledger) == 0.5


def test_a_cleared_worker_holds_nothing(listener: KVEventListener, ledger: Ledger) -> None:
    listener.receive(frames(0, stored(1, 2, 3, 4)))
    listener.receive(frames(1, AllBlocksCleared(), stored(1)))
    assert share(ledger) == 0.25


def test_events_of_one_batch_are_applied_in_order(listener: KVEventListener, ledger: Ledger) -> None:
    listener.receive(frames(0, stored(1, 2), BlockRemoved([2], "GPU"), stored(2, 3, parent=1)))
    assert share(ledger) == 0.75


def test_events_of_other_tiers_are_not_the_gpus(listener: KVEventListener, ledger: Ledger) -> None:
    listener.receive(frames(0, stored(1, 2, 3, 4, medium="CPU")))
    assert share(ledger) == 0.0
    listener.receive(frames(1, stored(1, 2, 3, 4, medium=None), BlockRemoved([1], "STORAGE")))
    assert share(ledger) == 1.0


def test_each_worker_is_its_own(listener: KVEventListener, ledger: Ledger) -> None:
    listener.receive(frames(0, stored(1, 2)))
    listener.receive(frames(0, stored(1), worker="w2"))
    listener.receive(frames(1, AllBlocksCleared(), worker="w2"))
    assert (share(ledger), share(ledger, "w2")) == (0.5, 0.0)


@pytest.mark.parametrize("sequence", [2, 0, 7])
def test_a_gap_in_the_sequence_forgets_what_was_believed_of_that_worker(
    listener: KVEventListener, ledger: Ledger, sequence: int
) -> None:
    """Lost events (2, 7) or a worker that began anew (0)."""
    listener.receive(frames(0, stored(1, 2), worker="w2"))
    listener.receive(frames(0, stored(1, 2)))
    listener.receive(frames(sequence, stored(3, parent=2)))
    assert (share(ledger), share(ledger, "w2")) == (0.0, 0.5)


def test_after_a_gap_the_sequence_goes_on_from_there(listener: KVEventListener, ledger: Ledger) -> None:
    listener.receive(frames(5, stored(1)))
    listener.receive(frames(6, stored(2, parent=1)))
    assert share(ledger) == 0.5


@pytest.mark.parametrize(
    "garbage",
    [
        [],
        [b"w1"],
        [*frames(1), b"more"],
        [b"w1", b"\0" * 8, b""],
        [b"w1", b"\0" * 8, b"\xc1"],
        [b"w1", b"\0" * 8, msgspec.msgpack.encode({"ts": 1})],
        [b"w1", b"\0" * 8, msgspec.msgpack.encode([1.0, [{"type": "BlockStored"}]])],
        [b"w1", b"\0" * 8, msgspec.msgpack.encode([1.0, [{"type": "Unheard"}]])],
    ],
)
def test_garbage_is_ignored(listener: KVEventListener, ledger: Ledger, garbage: list[bytes]) -> None:
    listener.receive(frames(0, stored(1, 2)))
    listener.receive(garbage)
    listener.receive(frames(1, stored(3, parent=2)))
    assert share(ledger) == 0.75


def test_a_topic_that_is_no_text_is_a_worker_that_nobody_asks(listener: KVEventListener, ledger: Ledger) -> None:
    listener.receive([b"\xff", *frames(0, stored(1))[1:]])
    assert share(ledger) == 0.0


class WatchedLedger(Ledger):
    """Tells when events reach it; they have been applied once the test runs again."""

    def __init__(self) -> None:
        super().__init__()
        self.touched = asyncio.Event()

    def gpu(self, worker: str) -> GpuTier:
        self.touched.set()
        return super().gpu(worker)


@contextlib.asynccontextmanager
async def publishing(endpoint: str) -> AsyncIterator[zmq.asyncio.Socket]:
    """A worker's socket, connected to the gateway's. XPUB is PUB that also tells when somebody has subscribed."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.XPUB)
    socket.connect(endpoint)
    try:
        async with asyncio.timeout(10):
            assert await socket.recv() == b"\x01"
        yield socket
    finally:
        socket.close(linger=0)
        context.term()


async def test_workers_publish_to_the_socket_that_the_gateway_binds() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    ledger = WatchedLedger()
    running = asyncio.ensure_future(KVEventListener(endpoint, ledger).run())
    try:
        async with publishing(endpoint) as one, publishing(endpoint) as two, asyncio.timeout(10):
            await one.send_multipart(frames(0, stored(1, 2, 3, 4)))
            await ledger.touched.wait()
            assert share(ledger) == 1.0
            ledger.touched.clear()
            await two.send_multipart(frames(0, stored(1), worker="w2"))
            await ledger.touched.wait()
            assert share(ledger, "w2") == 0.25
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_an_address_that_is_taken_is_an_error_and_free_again_afterwards() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    first = asyncio.ensure_future(KVEventListener(endpoint, Ledger()).run())
    async with publishing(endpoint):
        with pytest.raises(zmq.ZMQError, match="in use"):
            await KVEventListener(endpoint, Ledger()).run()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.ensure_future(KVEventListener(endpoint, Ledger()).run())
    async with publishing(endpoint):
        assert not second.done()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
