"""What a question leaves behind of its document: when it was asked, what may follow, where its tokens came from, its expiry."""

from __future__ import annotations

from gateway.asking.course import Chosen, Course
from gateway.shelf.documents import Shelf
from gateway.tiers.uses import Uses
from gateway.upkeep.prefetcher import Prefetcher
from router.documents import Key, TenantId


class Bookings:
    def __init__(self, shelf: Shelf, uses: Uses, prefetcher: Prefetcher, *, ttl_refresh: bool) -> None:
        """`ttl_refresh`: an answered question moves its document's expiry on."""
        self._shelf = shelf
        self._uses = uses
        self._prefetcher = prefetcher
        self._ttl_refresh = ttl_refresh

    def asked(self, chosen: Chosen) -> None:
        """Before the question is sent."""
        for key in _keys(chosen):
            self._uses.used(key)

    def begun(self, tenant: TenantId, chosen: Chosen) -> None:
        """At the first delta. Not before: what is planned now would compete with the question for the disk."""
        self._prefetcher.asked(tenant, chosen.document, chosen.version)

    async def answered(self, chosen: Chosen, course: Course) -> None:
        """Once the usage is known and the course has its outcome."""
        for key in _keys(chosen):
            self._uses.book(key, course.tokens)
        if self._ttl_refresh and course.outcome == "ok":
            await self._shelf.refresh(chosen.document.owner, chosen.document.name, self._shelf.now())


def _keys(chosen: Chosen) -> set[Key]:
    """A question to a volume is one to the whole document as well: what the tiers keep goes by the one, what people see by the other."""
    return {(chosen.document.owner, chosen.document.id), (chosen.document.owner, chosen.document.name)}
