"""When each document was asked last, how often, and where its tokens came from; kept over restarts.

What goes first where space is short is decided by the first; the rest is for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import structlog
from msgspec.structs import replace

from backends.base import Store
from gateway.saving import regularly
from router.documents import DocumentId, Key, Owner
from router.errors import StoreUnavailable
from router.tokens import TokenSplit

log = structlog.get_logger("uses")

STATE = "uses"
SAVE_EVERY_S = 20.0


class Use(msgspec.Struct, frozen=True, array_like=True):
    """What one document was asked so far. `last_at`: seconds since the epoch, 0 for never."""

    last_at: float = 0.0
    questions: int = 0
    tokens: TokenSplit = TokenSplit()


NEVER = Use()


class Uses:
    def __init__(self, store: Store, *, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._uses: dict[Key, Use] = {}
        self._unsaved = False

    def __repr__(self) -> str:
        return f"<Uses of {len(self._uses)} documents>"

    def used(self, key: Key) -> None:
        """A question about the document came."""
        self._put(key, replace(self.of(key), last_at=self._now()))

    def book(self, key: Key, tokens: TokenSplit) -> None:
        """A question was answered, and its tokens came from there."""
        before = self.of(key)
        self._put(key, replace(before, questions=before.questions + 1, tokens=before.tokens.plus(tokens)))

    def of(self, key: Key) -> Use:
        return self._uses.get(key, NEVER)

    def last(self, key: Key) -> float:
        """Seconds since the epoch; 0 for a document that was never asked."""
        return self.of(key).last_at

    async def load(self, known: Iterable[Key]) -> None:
        """Take up what an earlier run saved of documents that are still `known`. What can't be read counts as never asked."""
        kept = await self._store.state(STATE)
        try:
            uses = msgspec.msgpack.decode(kept, type=list[tuple[Owner, DocumentId, Use]]) if kept else []
        except msgspec.MsgspecError as error:
            log.warning("uses_unreadable", error=str(error))
            return
        wanted = set(known)
        self._uses = {(owner, id_): use for owner, id_, use in uses if (owner, id_) in wanted} | self._uses

    async def save(self) -> None:
        if not self._unsaved:
            return
        self._unsaved = False
        uses = [(owner, id_, use) for (owner, id_), use in self._uses.items()]
        saved = False
        try:
            await self._store.put_state(STATE, msgspec.msgpack.encode(uses), self._now())
            saved = True
        except StoreUnavailable as error:
            log.warning("uses_not_saved", error=str(error))
        finally:
            self._unsaved = self._unsaved or not saved  # also where it is cut off, as at the end

    async def run(self) -> None:
        """Save now and then, and at the end."""
        await regularly(self.save, SAVE_EVERY_S)

    def _put(self, key: Key, use: Use) -> None:
        self._uses[key] = use
        self._unsaved = True
