"""After a change of the engine (model, layout, versions): every document is read anew, the ones in use first.

Until its turn, a stale document is answered by questions that read it themselves (`gateway/api/chat.py`).
"""

from __future__ import annotations

import asyncio

import structlog

from gateway.shelf.documents import Shelf
from gateway.tiers.uses import Uses
from router.documents import Document, Key, VersionState
from router.errors import KvshelfError, StoreUnavailable

log = structlog.get_logger("renewal")

AT_ONCE = 4
"""So many wait to be read at a time: a document that is added meanwhile need not wait for all of them."""
RETRY_S = 5.0


class Renewal:
    def __init__(self, shelf: Shelf, uses: Uses) -> None:
        self._shelf = shelf
        self._uses = uses
        self._given_up: set[Key] = set()
        """Those that can't be read anew, as their text is lost."""

    async def run(self) -> None:
        """Make versions for all that are stale, a few at a time; returns when none is left."""
        while True:
            change = self._shelf.change
            room = AT_ONCE - self._waiting()
            if room <= 0:
                await change.wait()
                continue
            stale = self._stale()
            if not stale:
                return
            for document in stale[:room]:
                await self._renew(document)

    async def _renew(self, document: Document) -> None:
        try:
            await self._shelf.renew(document.owner, document.id)
        except StoreUnavailable as error:
            log.warning("renewal_postponed", error=str(error))
            await asyncio.sleep(RETRY_S)
        except KvshelfError as error:
            log.warning("not_renewed", document=document.id, error=str(error))
            self._given_up.add((document.owner, document.id))

    def _stale(self) -> list[Document]:
        """Those without a version in the making, last asked first."""
        found = [d for d in self._shelf.catalog if d.incoming is None and self._shelf.is_stale(d)]
        found = [d for d in found if (d.owner, d.id) not in self._given_up]
        return sorted(found, key=lambda d: (-self._uses.last((d.owner, d.id)), -d.updated_at, d.id))

    def _waiting(self) -> int:
        return sum(d.incoming is not None and d.incoming.state is not VersionState.FAILED for d in self._shelf.catalog)
