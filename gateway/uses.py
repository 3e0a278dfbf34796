"""When each document was asked last, kept over restarts: what goes first where space is short is decided by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
import structlog

from backends.base import Store
from router.documents import DocumentId, Key, Owner
from router.errors import StoreUnavailable

log = structlog.get_logger("uses")

STATE = "uses"
SAVE_EVERY_S = 20.0


class _Use(msgspec.Struct, frozen=True, array_like=True):
    owner: Owner
    id: DocumentId
    at: float


class Uses:
    def __init__(self, store: Store, *, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._last: dict[Key, float] = {}
        self._unsaved = False

    def __repr__(self) -> str:
        return f"<Uses of {len(self._last)} documents>"

    def used(self, key: Key) -> None:
        self._last[key] = self._now()
        self._unsaved = True

    def last(self, key: Key) -> float:
        """Seconds since the epoch; 0 for a document that was never asked."""
        return self._last.get(key, 0.0)

    async def load(self, known: Iterable[Key]) -> None:
        """Take up what an earlier run saved of documents that are still `known`. What can't be read counts as never asked."""
        kept = await self._store.state(STATE)
        try:
            uses = msgspec.msgpack.decode(kept, type=list[_Use]) if kept else []
        except msgspec.MsgspecError as error:
            log.warning("uses_unreadable", error=str(error))
            return
        wanted = set(known)
        self._last = {(use.owner, use.id): use.at for use in uses if (use.owner, use.id) in wanted} | self._last

    async def save(self) -> None:
        if not self._unsaved:
            return
        self._unsaved = False
        uses = [_Use(owner, id_, at) for (owner, id_), at in self._last.items()]
        try:
            await self._store.put_state(STATE, msgspec.msgpack.encode(uses), self._now())
        except StoreUnavailable as error:
            self._unsaved = True
            log.warning("uses_not_saved", error=str(error))

    async def run(self) -> None:
        """Save now and then, and at the end."""
        try:
            while True:
                await asyncio.sleep(SAVE_EVERY_S)
                await self.save()
        finally:
            await self.save()
