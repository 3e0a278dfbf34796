"""What tenants are charged for readings: taken before a version is stored, given back as far as nothing came of it.

1. Who adds a text pays for its prefix, all of it. What is read already, or is being read, makes no version and costs nothing.
2. A version that became ready was read: its charge stands.
3. One that failed is given back whole.
4. Of one that was replaced or removed before, what was not read is given back, once no segment of it is under way any more:
   else who posts again and again had each one's beginning computed for nothing.

Whose charge it is, only this process knows: after a restart it stands, whatever becomes of the version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from gateway.tenants.limiter import Hold
from router.documents import Document, Key, Version, VersionId, VersionState


class Payer(Protocol):
    """Who pays for a reading: a request, by its limits."""

    async def reserve_reading(self, tokens: int) -> Hold | None:
        """Take so many; None where nothing is limited. Raises BudgetSpent."""
        ...


class _Charged:
    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.read_tokens = 0
        self.is_wanted = True


class ReadingCharges:
    def __init__(self) -> None:
        self._charged: defaultdict[Key, dict[VersionId, _Charged]] = defaultdict(dict)
        self._under_way: set[VersionId] = set()

    def __repr__(self) -> str:
        return f"<ReadingCharges of {len(self._charged)} documents>"

    @asynccontextmanager
    async def taken(self, payer: Payer | None, key: Key, version: Version) -> AsyncIterator[None]:
        """Charge it for the version, which is stored inside: where that fails nothing was taken. Raises BudgetSpent."""
        hold = await payer.reserve_reading(version.prefix_tokens) if payer is not None else None
        try:
            yield
        except BaseException:
            if hold is not None:
                hold.settle(0)
            raise
        if hold is not None:
            self._charged[key][version.id] = _Charged(hold)

    def seen(self, key: Key, document: Document | None) -> None:
        """This is what the document is now; None where it was removed."""
        if key not in self._charged:
            return
        versions = {version.id: version for version in document.versions} if document is not None else {}
        for version_id, charged in tuple(self._charged[key].items()):
            version = versions.get(version_id)
            charged.is_wanted = version is not None
            if version is None:
                self._leave(key, version_id)
            elif version.state in (VersionState.READY, VersionState.FAILED):
                if version.state is VersionState.FAILED:
                    charged.hold.settle(0)
                self._forget(key, version_id)

    @contextmanager
    def reading(self, key: Key, version_id: VersionId) -> Iterator[None]:
        """The time in which it is being read, whether or not it is wanted still."""
        self._under_way.add(version_id)
        try:
            yield
        finally:
            self._under_way.discard(version_id)
            self._leave(key, version_id)

    def read(self, key: Key, version_id: VersionId, tokens: int) -> None:
        """So many tokens of it have been read."""
        charged = self._charged[key].get(version_id) if key in self._charged else None
        if charged is not None:
            charged.read_tokens = max(charged.read_tokens, tokens)

    def _leave(self, key: Key, version_id: VersionId) -> None:
        """Settle it by what was read, if nobody wants it and nothing more of it is read."""
        charged = self._charged[key].get(version_id) if key in self._charged else None
        if charged is not None and not charged.is_wanted and version_id not in self._under_way:
            charged.hold.settle(charged.read_tokens)
            self._forget(key, version_id)

    def _forget(self, key: Key, version_id: VersionId) -> None:
        del self._charged[key][version_id]
        if not self._charged[key]:
            del self._charged[key]


class _Prepaid:
    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    async def reserve_reading(self, tokens: int) -> Hold | None:
        return self._hold.part(tokens)


@asynccontextmanager
async def prepaid(payer: Payer | None, tokens: int) -> AsyncIterator[Payer | None]:
    """Who pays for several readings, so many tokens in all, charged before the first; what these don't take is given back.

    Raises BudgetSpent.
    """
    hold = await payer.reserve_reading(tokens) if payer is not None and tokens else None
    try:
        yield _Prepaid(hold) if hold is not None else None
    finally:
        if hold is not None:
            hold.settle(0)
