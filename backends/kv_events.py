"""vLLM's KV events: what each worker stores on its GPU tier and what it drops.

One SUB socket is bound here and every worker connects to it, publishing under its own name as topic. A gap in a
worker's sequence (it restarted, or events were lost) resets what is believed of it. Applied to `router/gpu_tier.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
import zmq
import zmq.asyncio

from router.documents import Salt
from router.residency import Ledger

log = structlog.get_logger("kv_events")

_ON_GPU = ("GPU", None)


class _Event(msgspec.Struct, tag=True):
    pass


class BlockStored(_Event):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    block_size: int
    medium: str | None = None
    extra_keys: list[list[Any] | None] | None = None


class BlockRemoved(_Event):
    block_hashes: list[int | bytes]
    medium: str | None = None


class AllBlocksCleared(_Event):
    pass


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]


class KVEventListener:
    """Keeps `ledger` up to date while it runs."""

    def __init__(self, endpoint: str, ledger: Ledger) -> None:
        self._endpoint = endpoint
        self._ledger = ledger
        self._next: dict[str, int] = {}
        self._decoder = msgspec.msgpack.Decoder(_Batch)

    async def run(self) -> None:
        """Listen until cancelled. Raises zmq.ZMQError where the endpoint can't be bound."""
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.SUB)
        try:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.bind(self._endpoint)
            while True:
                self.receive(await socket.recv_multipart())
        finally:
            socket.close(linger=0)
            context.term()

    def receive(self, frames: list[bytes]) -> None:
        """Apply one message: topic (the worker's name), sequence (8 bytes, big-endian), batch (msgpack)."""
        try:
            topic, sequence, payload = frames
            batch = self._decoder.decode(payload)
        except (ValueError, msgspec.MsgspecError) as error:
            log.warning("kv_event_unreadable", error=str(error), frames=len(frames))
            return
        worker, number = topic.decode(errors="replace"), int.from_bytes(sequence, "big")
        if number != self._next.get(worker, 0):
            log.info("kv_events_restarted", worker=worker, expected=self._next.get(worker, 0), got=number)
            self._ledger.forget_worker(worker)
        self._next[worker] = number + 1
        for event in batch.events:
            self._apply(worker, event)

    def _apply(self, worker: str, event: BlockStored | BlockRemoved | AllBlocksCleared) -> None:
        match event:
            case BlockStored() if event.medium in _ON_GPU:
                first = event.extra_keys[0] if event.extra_keys else None
                salt = Salt(first[0]) if first and isinstance(first[0], str) else None
                self._ledger.gpu(worker).stored(event.block_hashes, event.parent_block_hash, salt, event.block_size)
            case BlockRemoved() if event.medium in _ON_GPU:
                self._ledger.gpu(worker).removed(event.block_hashes)
            case AllBlocksCleared():
                self._ledger.forget_worker(worker)
            case _:
                pass  # another tier's event
