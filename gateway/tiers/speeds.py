"""How fast each worker reads: measured while documents are read, kept over restarts.

For people alone: it tells what the cache saved (`router/usage.py`). What is decided goes by `router/placement.py`'s costs.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from backends.base import Store
from gateway.saving import regularly
from router.errors import StoreUnavailable

log = structlog.get_logger("speeds")

STATE = "speeds"
SAVE_EVERY_S = 60.0
KEPT = 0.95
"""What is left of what was measured before, with each new measurement: the last twenty or so count."""


class Speed(msgspec.Struct, frozen=True, array_like=True):
    tokens: float = 0.0
    seconds: float = 0.0


class Speeds:
    def __init__(self, store: Store, *, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._speeds: dict[str, Speed] = {}
        self._unsaved = False

    def measured(self, worker: str, tokens: int, seconds: float) -> None:
        """It computed so many tokens of a document, with nothing else to do at the beginning. Those that it met do not count."""
        before = self._speeds.get(worker, Speed())
        self._speeds[worker] = Speed(before.tokens * KEPT + tokens, before.seconds * KEPT + seconds)
        self._unsaved = True

    def of(self, worker: str) -> float | None:
        """Tokens a second: all that were measured, divided by what they took; of a worker that was not measured, all workers'.

        A document's last tokens are slower to read than its first ones, and each segment is a request: the mean of whole
        readings says what reading a document again would take. None before the first reading.
        """
        known = self._speeds.get(worker)
        counted = [known] if known is not None else list(self._speeds.values())
        seconds = sum(speed.seconds for speed in counted)
        return sum(speed.tokens for speed in counted) / seconds if seconds else None

    def seconds(self, worker: str, tokens: int) -> float:
        """How long the worker would compute so many tokens; 0 while nothing is known of its speed."""
        speed = self.of(worker)
        return tokens / speed if speed else 0.0

    async def load(self) -> None:
        """Take up what an earlier run saved."""
        kept = await self._store.state(STATE)
        try:
            self._speeds = msgspec.msgpack.decode(kept, type=dict[str, Speed]) if kept else {}
        except msgspec.MsgspecError as error:
            log.warning("speeds_unreadable", error=str(error))

    async def save(self) -> None:
        if not self._unsaved:
            return
        self._unsaved, saved = False, False  # what is measured meanwhile is not in it
        try:
            await self._store.put_state(STATE, msgspec.msgpack.encode(self._speeds), self._now())
            saved = True
        except StoreUnavailable as error:
            log.warning("speeds_not_saved", error=str(error))
        finally:
            self._unsaved = self._unsaved or not saved

    async def run(self) -> None:
        """Save now and then, and at the end."""
        await regularly(self.save, SAVE_EVERY_S)
