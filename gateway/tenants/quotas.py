"""How many documents a tenant may have: counted before anything is stored, with those that are being added at the moment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.tenants.limits_file import TenantLimits
from observability.telemetry import LIMIT, TENANT, Telemetry
from router.catalog import Catalog
from router.documents import SHARED, DocumentId, Owner, TenantId
from router.errors import QuotaExceeded


class Quotas:
    def __init__(self, tenants: TenantLimits, telemetry: Telemetry) -> None:
        self._tenants = tenants
        self._telemetry = telemetry
        self._coming: defaultdict[Owner, Counter[DocumentId]] = defaultdict(Counter)

    @contextmanager
    def adding(self, catalog: Catalog, owner: Owner, document_id: DocumentId) -> Iterator[None]:
        """Hold a place for the document until it is in the catalog, or is not added. Raises QuotaExceeded.

        One that is there already needs none; neither do those that are everybody's.
        """
        coming = self._coming[owner]
        limit = self._tenants.of(TenantId(owner)).documents if owner != SHARED else None
        if limit is not None and document_id not in coming and catalog.get(owner, document_id) is None:
            there = documents_of(catalog, owner) | set(coming)
            if len(there) >= limit:
                self._telemetry.limit_refusals.add(1, {LIMIT: "documents", TENANT: owner})
                raise QuotaExceeded(
                    f"This tenant has {len(there)} documents and may have {limit}. "
                    "Remove one, or have the operator raise the tenant's `documents`.",
                    limit=limit,
                )
        coming[document_id] += 1
        try:
            yield
        finally:
            coming[document_id] -= 1
            if not coming[document_id]:
                del coming[document_id]


def documents_of(catalog: Catalog, owner: Owner) -> set[DocumentId]:
    """The ids of the owner's documents; one in volumes is one."""
    return {document.id for document in catalog if document.owner == owner and document.part is None}
