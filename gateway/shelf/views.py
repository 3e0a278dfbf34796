"""What questions are matched with: an index of the documents that a viewer may see, shared only by those who see the same.

Keeps what stands for each version. An index is built in a thread, beside the one before it, once the viewer's view of the
catalog has changed. Where building takes long, questions go by the older one meanwhile, unless that knows of a document that
the viewer may not see any more. The indexes that were used last are kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec

from gateway.shelf.index import Features, Index
from gateway.shelf.volume_features import VolumeFeatures, same
from router.catalog import Catalog
from router.documents import Document, VersionId
from router.viewers import Viewer

PATIENCE_S = 0.5
"""So long a question waits for the newest index where there is an older one."""
VIEWERS_KEPT = 256
"""An index takes memory in proportion to its documents' words: keys with lists of their own could make any number of them."""


class _View(msgspec.Struct):
    """`catalog` and `changes`: when the index was last seen to fit."""

    index: Index
    features: list[Features]
    catalog: Catalog
    changes: int


class _Build(msgspec.Struct, frozen=True):
    """An index in the making, and what it will fit."""

    features: list[Features]
    catalog: Catalog
    changes: int
    task: asyncio.Task[Index]


class Views:
    def __init__(self) -> None:
        self._features: dict[VersionId, Features] = {}
        self._volumes = VolumeFeatures()
        self._views: OrderedDict[Viewer, _View] = OrderedDict()
        """The one used last at the end."""
        self._builds: dict[Viewer, _Build] = {}
        self._changes = 0
        """To any features: while there are none, and the catalog is the same, an index needs no second look."""

    def get(self, version: VersionId) -> Features | None:
        return self._features.get(version)

    def put(self, version: VersionId, features: Features) -> None:
        self._features[version] = features
        self._changes += 1

    def forget(self, version: VersionId) -> None:
        if (gone := self._features.pop(version, None)) is not None:
            self._volumes.forget(gone)
        self._changes += 1

    async def of(self, catalog: Catalog, viewer: Viewer) -> Index:
        """The index of what the viewer sees. Documents take part once a version of theirs can answer."""
        view = self._views.get(viewer)
        if view is not None:
            self._views.move_to_end(viewer)
        if view is not None and view.catalog is catalog and view.changes == self._changes:
            return view.index
        known = [(d, self._standing_for(catalog, d)) for d in catalog.visible_to(viewer)]
        visible = [document for document, found in known if found is not None]
        features = [found for _, found in known if found is not None]
        if view is not None and same(view.features, features):
            view.catalog, view.changes = catalog, self._changes
            return view.index
        task = self._build(catalog, viewer, visible, features)
        if view is not None and _may_still_be_seen(view.index, catalog, viewer):
            await asyncio.wait({task}, timeout=PATIENCE_S)
            if not task.done():
                return view.index
        return await asyncio.shield(task)

    async def of_volumes(self, catalog: Catalog, document: Document) -> Index:
        """The index of the volumes that answer for a document; those of which nothing is known are left out."""
        known = [(one, self._own(one)) for one in catalog.answering(document)]
        volumes = [one for one, found in known if found is not None]
        return await self._volumes.index(document, volumes, [found for _, found in known if found is not None])

    def _standing_for(self, catalog: Catalog, document: Document) -> Features | None:
        """None where a version that answers for it isn't there, or not known."""
        if document.current is not None or not document.volumes:
            return self._own(document)
        found = [self._own(volume) for volume in catalog.answering(document)]
        parts = [features for features in found if features is not None]
        return self._volumes.joined(document, parts) if parts and len(parts) == len(found) else None

    def _own(self, document: Document) -> Features | None:
        return self._features.get(document.current.id) if document.current is not None else None

    def _build(self, catalog: Catalog, viewer: Viewer, visible: list[Document], features: list[Features]) -> asyncio.Task[Index]:
        """One at a time for the same documents, whoever asks."""
        build = self._builds.get(viewer)
        if build is None or not same(build.features, features):
            # Whatever was being built for this viewer goes on for those who wait for it, and is then no longer wanted.
            task = asyncio.create_task(asyncio.to_thread(Index, visible, features))
            build = self._builds[viewer] = _Build(features, catalog, self._changes, task)
            task.add_done_callback(lambda _: self._built(viewer, build))
        return build.task

    def _built(self, viewer: Viewer, build: _Build) -> None:
        """Whoever asks next gets it, also where nobody waits for it any more; unless a newer one is being built."""
        if self._builds.get(viewer) is not build:
            return
        del self._builds[viewer]
        if not build.task.cancelled() and build.task.exception() is None:
            self._views[viewer] = _View(build.task.result(), build.features, build.catalog, build.changes)
            self._views.move_to_end(viewer)
            if len(self._views) > VIEWERS_KEPT:
                self._views.popitem(last=False)


def _may_still_be_seen(index: Index, catalog: Catalog, viewer: Viewer) -> bool:
    return {(d.owner, d.id) for d in index.documents} <= {(d.owner, d.id) for d in catalog.visible_to(viewer)}
