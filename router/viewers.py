"""Who looks at the catalog: a tenant, through a key that may be narrowed to some of what the tenant sees."""

from __future__ import annotations

import msgspec

from router.documents import Document, DocumentId, TenantId


class Viewer(msgspec.Struct, frozen=True):
    """Hashable: keys that see the same are the same viewer.

    `documents` and `tags`: it sees the tenant's documents of these ids, and those that have one of these tags. Both empty:
    everything that the tenant sees.
    """

    tenant: TenantId
    documents: frozenset[DocumentId] = frozenset()
    tags: frozenset[str] = frozenset()

    @property
    def is_narrow(self) -> bool:
        return bool(self.documents or self.tags)

    def permits(self, document: Document) -> bool:
        """Whether its allow-list has the document, or the one that it is a volume of; whose it is doesn't matter here."""
        if not self.is_narrow:
            return True
        return document.name in self.documents or not self.tags.isdisjoint(document.descriptor.tags)
