"""What each tenant's own documents may take of a host's RAM tier: its `ram_gib`, and how much of that is left.

Moves nothing: what leaves beyond it is `gateway/tiers/ram_keeper.py`'s, what is brought within it `gateway/upkeep/prefetcher.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from gateway.tiers.disk_keeper import GIB, HasCatalog
from router.documents import SHARED, Owner, TenantId
from router.limits import UNLIMITED, Limits
from router.residency import Ledger
from router.shares import Share


class RamQuotas:
    def __init__(self, shelf: HasCatalog, ledger: Ledger, limits: Callable[[TenantId], Limits] = lambda _: UNLIMITED) -> None:
        """`limits`: each tenant's, of which `ram_gib` is kept here."""
        self._shelf = shelf
        self._ledger = ledger
        self._limits = limits

    def limit_bytes(self, owner: Owner) -> int | None:
        """What the owner's documents may take on each host; None where only the tier limits them, as what is shared by all."""
        ram_gib = self._limits(TenantId(owner)).ram_gib if owner != SHARED else None
        return None if ram_gib is None else round(ram_gib * GIB)

    def shares(self, host: str, owners: Iterable[Owner] | None = None) -> dict[Owner, Share]:
        """Of these owners, those who are limited, with what is left to each on this host. None: of all who have something there.

        A version counts for whom it belongs to now, pinned and in use or not; what no document has, for nobody.
        """
        limited = None if owners is None else self._limited(owners)
        if limited is not None and not limited:
            return {}
        held: Counter[Owner] = Counter()
        catalog = self._shelf.catalog
        for salt, size_bytes in self._ledger.ram(host).salts.items():
            if (found := catalog.of_salt(salt)) is not None:
                held[found[0].owner] += size_bytes
        limited = self._limited(held) if limited is None else limited
        return {owner: Share(_Of(self._shelf, owner), limit_bytes - held[owner]) for owner, limit_bytes in limited.items()}

    def _limited(self, owners: Iterable[Owner]) -> dict[Owner, int]:
        return {owner: limit_bytes for owner in owners if (limit_bytes := self.limit_bytes(owner)) is not None}


class _Of:
    """The salts of an owner's versions."""

    def __init__(self, shelf: HasCatalog, owner: Owner) -> None:
        self._shelf, self._owner = shelf, owner

    def __contains__(self, salt: Any) -> bool:
        found = self._shelf.catalog.of_salt(salt)
        return found is not None and found[0].owner == self._owner
