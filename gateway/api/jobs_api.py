"""`/v1/jobs`: readings of documents and moves between tiers, as a tenant sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import msgspec
from litestar import Controller, Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import ServerSentEvent, ServerSentEventMessage

from gateway.api.description import EVENTS, GIVES
from gateway.errors import envelope
from gateway.shelf.documents import Shelf
from gateway.tenants.authenticator import Principal
from gateway.tenants.doors import needs
from gateway.tenants.streams import Streams, key_ended
from gateway.upkeep.moves import Move, Moves
from router.catalog import Catalog
from router.documents import Document, DocumentId, Version, VersionState, content_digest
from router.errors import NotFound
from router.viewers import Viewer

ENDED = ("ready", "done", "failed")


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job. A reading's `read_tokens` go up to `prefix_tokens`; a move has a `tier`, a place and a reason."""

    id: str
    kind: str
    """read, warm or evict."""
    document: str
    state: str
    """A reading is pending, reading, ready or failed; a move running, done or failed."""
    error: str | None
    """Why it failed, or what it waits for."""
    created_at: float
    read_tokens: int = 0
    prefix_tokens: int = 0
    tier: str | None = None
    where: str | None = None
    why: str | None = None
    object: Literal["job"] = "job"


class JobList(msgspec.Struct, frozen=True):
    data: list[JobView]
    object: Literal["list"] = "list"


class JobsController(Controller):
    path = "/v1/jobs"
    tags = ("documents",)
    opt = needs("read")

    @get()
    async def list_jobs(
        self, shelf: NamedDependency[Shelf], moves: NamedDependency[Moves], request: Request[Any, Principal, Any]
    ) -> JobList:
        """What is being read and moved now of the documents that this key's tenant may ask, and the moves of late; newest first."""
        jobs = list(_jobs(shelf, moves, request.auth.viewer).values())
        return JobList(sorted(jobs, key=lambda job: job.created_at, reverse=True))

    @get("/{job_id:str}")
    async def show_job(
        self,
        job_id: FromPath[str],
        shelf: NamedDependency[Shelf],
        moves: NamedDependency[Moves],
        request: Request[Any, Principal, Any],
    ) -> JobView:
        return _find(shelf, moves, request.auth.viewer, job_id)

    @get("/{job_id:str}/events", opt={GIVES: {200: EVENTS}})
    async def follow_job(
        self,
        job_id: FromPath[str],
        shelf: NamedDependency[Shelf],
        moves: NamedDependency[Moves],
        streams: NamedDependency[Streams],
        request: Request[Any, Principal, Any],
    ) -> ServerSentEvent:
        """The job as server-sent events: `progress` at each change, then one `ready`, `done`, `failed` or `gone`.

        An `error` where the key ends meanwhile.
        """
        _find(shelf, moves, request.auth.viewer, job_id)
        return ServerSentEvent(_events(shelf, moves, streams, request.auth, job_id))


def reading_view(document: Document, version: Version) -> JobView:
    return JobView(
        id=version.id,
        kind="read",
        document=document.name,
        state=version.state.value,
        error=version.error,
        created_at=version.created_at,
        read_tokens=version.read_tokens,
        prefix_tokens=version.prefix_tokens,
    )


def edition_view(catalog: Catalog, document: Document, volumes: Sequence[DocumentId] | None = None) -> JobView | None:
    """The reading of a document's volumes as one job: of those to come, else of those that answer and are read anew; None where
    there is nothing to read. `volumes`: of these, read or not."""
    asked = volumes or document.coming or document.volumes
    parts = catalog.parts(document, asked)
    versions = [version for part in parts if (version := part.incoming or part.current) is not None]
    coming = tuple(asked) == document.coming
    if not versions or (volumes is None and not coming and not any(part.incoming for part in parts)):
        return None
    states = {version.state for version in versions}
    if VersionState.FAILED in states:
        state = VersionState.FAILED
    elif states == {VersionState.READY} and not coming:
        state = VersionState.READY
    else:
        state = VersionState.PENDING if states == {VersionState.PENDING} else VersionState.READING
    return JobView(
        id=_edition_id(document, asked),
        kind="read",
        document=document.id,
        state=state.value,
        error=next((version.error for version in versions if version.error is not None), None),
        created_at=max(version.created_at for version in versions),
        read_tokens=sum(version.read_tokens for version in versions),
        prefix_tokens=sum(version.prefix_tokens for version in versions),
    )


def _edition_id(document: Document, volumes: Sequence[DocumentId]) -> str:
    return content_digest(" ".join((document.owner, document.id, *volumes)))[:32]


def move_view(move: Move) -> JobView:
    return JobView(
        id=move.id,
        kind=move.kind.value,
        document=move.document,
        state=move.state.value,
        error=move.error,
        created_at=move.created_at,
        tier=move.tier,
        where=move.where or None,
        why=move.why,
    )


def _jobs(shelf: Shelf, moves: Moves, viewer: Viewer) -> dict[str, JobView]:
    visible = shelf.catalog.visible_to(viewer)
    readings = [reading_view(document, version) for document in visible if (version := document.incoming) is not None]
    readings += [job for document in visible if (job := edition_view(shelf.catalog, document)) is not None]
    keys = {(document.owner, document.id) for document in visible}
    moved = [move_view(move) for move in moves if (move.owner, move.document) in keys and not move.planned]
    return {job.id: job for job in (*readings, *moved)}


def _find(shelf: Shelf, moves: Moves, viewer: Viewer, job_id: str) -> JobView:
    visible = shelf.catalog.visible_to(viewer)
    for document in visible:
        for version in document.versions:
            if version.id == job_id:
                return reading_view(document, version)
        for volumes in (document.coming, document.volumes):
            if _edition_id(document, volumes) == job_id and (job := edition_view(shelf.catalog, document, volumes)) is not None:
                return job
    move = moves.get(job_id)
    if move is not None and not move.planned and any((move.owner, move.document) == (d.owner, d.id) for d in visible):
        return move_view(move)
    raise NotFound(f"No job {job_id[:120]!r}. The document that it was about may have been replaced or removed since.", param="job")


async def _events(
    shelf: Shelf, moves: Moves, streams: Streams, principal: Principal, job_id: str
) -> AsyncIterator[ServerSentEventMessage]:
    shown: JobView | None = None
    with streams.watched(principal) as key_is_over:
        while not shelf.closed:
            changes = shelf.change, moves.change
            if key_is_over.done():
                yield ServerSentEventMessage(event="error", data=msgspec.json.encode(envelope(key_ended())).decode())
                return
            try:
                job = _find(shelf, moves, principal.viewer, job_id)
            except NotFound:
                yield ServerSentEventMessage(event="gone", data="{}")
                return
            if job != shown:
                ended = job.state in ENDED
                yield ServerSentEventMessage(event=job.state if ended else "progress", data=msgspec.json.encode(job).decode())
                if ended:
                    return
                shown = job
            await _either(*changes, over=key_is_over)


async def _either(*events: asyncio.Event, over: asyncio.Future[None]) -> None:
    """Return when one of the events is set, or `over` is done."""
    waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait([*waiting, over], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
