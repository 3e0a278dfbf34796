"""What each tenant's questions are matched with: an index of the documents that it may see, never shared between tenants.

Keeps what stands for each version. An index is built in a thread, beside the one before it, once the tenant's view of the
catalog has changed. Where building takes long, questions go by the older one meanwhile, unless that knows of a document that
the tenant may not see any more.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from gateway.shelf.index import Features, Index
from router.documents import Catalog, Document, TenantId, VersionId

PATIENCE_S = 0.5
"""So long a question waits for the newest index where there is an older one."""


class _View(msgspec.Struct):
    """`catalog` and `changes`: when the index was last seen to fit."""

    index: Index
    features: list[Features]
    catalog: Catalog
    changes: int


class _Build(msgspec.Struct, frozen=True):
    features: list[Features]
    task: asyncio.Task[Any]


class Views:
    def __init__(self) -> None:
        self._features: dict[VersionId, Features] = {}
        self._views: dict[TenantId, _View] = {}
        self._builds: dict[TenantId, _Build] = {}
        self._changes = 0
        """To any features: while there are none, and the catalog is the same, a tenant's index needs no second look."""

    def get(self, version: VersionId) -> Features | None:
        return self._features.get(version)

    def put(self, version: VersionId, features: Features) -> None:
        self._features[version] = features
        self._changes += 1

    def forget(self, version: VersionId) -> None:
        self._features.pop(version, None)
        self._changes += 1

    async def of(self, catalog: Catalog, tenant: TenantId) -> Index:
        """The index of what the tenant sees. Documents take part once a version of theirs can answer."""
        view = self._views.get(tenant)
        if view is not None and view.catalog is catalog and view.changes == self._changes:
            return view.index
        changes = self._changes
        visible = [d for d in catalog.visible_to(tenant) if d.current is not None and d.current.id in self._features]
        features = [self._features[d.current.id] for d in visible if d.current is not None]
        if view is not None and _same(view.features, features):
            view.catalog, view.changes = catalog, changes
            return view.index
        task = self._build(tenant, visible, features)
        if view is not None and _may_still_be_seen(view.index, catalog, tenant):
            await asyncio.wait({task}, timeout=PATIENCE_S)
            if not task.done():
                return view.index
        built = await asyncio.shield(task)
        self._views[tenant] = _View(built, features, catalog, changes)
        return built

    def _build(self, tenant: TenantId, visible: list[Document], features: list[Features]) -> asyncio.Task[Index]:
        """One at a time for the same documents, whoever asks."""
        build = self._builds.get(tenant)
        if build is None or not _same(build.features, features):
            # Whatever was being built for this tenant goes on for those who wait for it, and is then no longer wanted.
            build = self._builds[tenant] = _Build(features, asyncio.create_task(asyncio.to_thread(Index, visible, features)))
            build.task.add_done_callback(lambda task: self._built(tenant, task))
        return build.task

    def _built(self, tenant: TenantId, task: asyncio.Task[Index]) -> None:
        if (build := self._builds.get(tenant)) is not None and build.task is task:
            del self._builds[tenant]


def _same(one: list[Features], other: list[Features]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _may_still_be_seen(index: Index, catalog: Catalog, tenant: TenantId) -> bool:
    return {(d.owner, d.id) for d in index.documents} <= {(d.owner, d.id) for d in catalog.visible_to(tenant)}
