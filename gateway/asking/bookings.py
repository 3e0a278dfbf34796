"""What a question leaves behind: of its document, when it was asked, what may follow, where its tokens came from, and its expiry;
of its key, what was used.
"""

from __future__ import annotations

from gateway.asking.course import Chosen, Course
from gateway.shelf.documents import Shelf
from gateway.tenants.usage import UsageBooks
from gateway.tiers.speeds import Speeds
from gateway.tiers.uses import Uses
from gateway.upkeep.prefetcher import Prefetcher
from router.documents import Key, TenantId
from router.usage import Used


class Bookings:
    def __init__(
        self, shelf: Shelf, uses: Uses, prefetcher: Prefetcher, usage: UsageBooks, speeds: Speeds, *, ttl_refresh: bool
    ) -> None:
        """`ttl_refresh`: an answered question moves its document's expiry on."""
        self._shelf = shelf
        self._uses = uses
        self._prefetcher = prefetcher
        self._usage = usage
        self._speeds = speeds
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

    def ended(self, course: Course) -> None:
        """However it did: at its end, with its outcome."""
        principal, taken = course.principal, course.taken
        saved_s = self._speeds.seconds(course.worker.name, taken.cached_tokens) if course.worker and taken.cached_tokens else 0.0
        self._usage.book(
            Used(
                tenant=principal.tenant,
                key=principal.key_id,
                document=course.chosen.document.name if course.chosen else "",
                day=self._usage.today,
                questions=int(not course.part),
                parts=int(course.part),
                refused=int(course.refused and not course.part),
                prompt_tokens=taken.prompt_tokens,
                cached_tokens=taken.cached_tokens,
                completion_tokens=taken.completion_tokens,
                saved_s=saved_s,
            )
        )


def _keys(chosen: Chosen) -> set[Key]:
    """A question to a volume is one to the whole document as well: what the tiers keep goes by the one, what people see by the other."""
    return {(chosen.document.owner, chosen.document.id), (chosen.document.owner, chosen.document.name)}
