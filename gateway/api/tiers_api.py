"""`POST /v1/documents/{id}/warm` and `/evict`: a document's KV moved between the tiers, as jobs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
from litestar import Controller, Request, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.api.description import TAKES, Takes
from gateway.api.documents_api import decode
from gateway.api.jobs_api import JobView, move_view
from gateway.api.limits_api import admission_of
from gateway.shelf.documents import Shelf
from gateway.tenants.authenticator import Principal
from gateway.tenants.doors import needs
from gateway.upkeep.moves import Move, Moves
from router.documents import SHARED, Document
from router.errors import InvalidRequest
from router.residency import Ledger, Tier

T = TypeVar("T")


class Warming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to: to RAM (of `host`, where there are several), or onto the GPU tier of `worker`."""

    tier: Literal["ram", "gpu"] = "ram"
    worker: str | None = None
    host: str | None = None


class Evicting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where from. A question after it restores the document from what is left, or reads it again."""

    tier: Literal["ram", "disk", "gpu", "all"] = "all"


class TiersController(Controller):
    path = "/v1/documents/{document_id:str}"
    tags = ("documents",)
    opt = needs("write", "share")

    @post("/warm", status_code=202, opt={TAKES: Takes(Warming, optional=True)})
    async def warm(
        self,
        document_id: FromPath[str],
        shelf: NamedDependency[Shelf],
        moves: NamedDependency[Moves],
        ledger: NamedDependency[Ledger],
        request: Request[Any, Principal, Any],
    ) -> JobView:
        """Bring the document's KV to RAM, or onto a worker's GPU tier. What is in no tier is read again, at the price of a reading."""
        document = _changeable(shelf, request.auth, document_id)
        asked = await _asked(request, Warming)
        if asked.worker is not None and asked.tier != "gpu":
            raise InvalidRequest("`worker` goes with the tier `gpu`; RAM is its host's.", param="worker")
        if asked.host is not None and asked.tier != "ram":
            raise InvalidRequest("`host` goes with the tier `ram`.", param="host")
        tier, where = Tier(asked.tier), asked.worker or asked.host
        admission, unread = admission_of(request.scope), _unread_tokens(shelf, ledger, document)
        hold = await admission.reserve_reading(unread) if admission is not None and unread else None
        before = {move.id for move in moves}
        move: JobView | None = None
        try:
            move = _move(shelf, moves, document, lambda one: moves.warm(one, tier, where))
        finally:
            if hold is not None and (move is None or move.id in before):  # refused, or paid for by whoever began it
                hold.settle(0)
        return move

    @post("/evict", status_code=202, opt={TAKES: Takes(Evicting, optional=True)})
    async def evict(
        self,
        document_id: FromPath[str],
        shelf: NamedDependency[Shelf],
        moves: NamedDependency[Moves],
        request: Request[Any, Principal, Any],
    ) -> JobView:
        """Remove the document's KV from RAM, from disk, or from both. The document stays and can be asked."""
        document = _changeable(shelf, request.auth, document_id)
        asked = await _asked(request, Evicting)
        tier = None if asked.tier == "all" else Tier(asked.tier)
        return _move(shelf, moves, document, lambda one: moves.evict(one, tier))


def _move(shelf: Shelf, moves: Moves, document: Document, start: Callable[[Document], Move]) -> JobView:
    parts = shelf.catalog.answering(document)
    if parts == (document,):
        return move_view(start(document))
    return move_view(moves.of_volumes(document, [partial(start, part) for part in parts]))


def _unread_tokens(shelf: Shelf, ledger: Ledger, document: Document) -> int:
    """How many of its tokens have to be read again, wherever it goes: those of versions that no host has whole."""
    versions = [part.current for part in shelf.catalog.answering(document) if part.current is not None]
    return sum(
        version.prefix_tokens
        for version in versions
        if all(max(ledger.ram_share(version, host), ledger.disk_share(version, host)) < 1 for host in ledger.hosts)
    )


def _changeable(shelf: Shelf, principal: Principal, document_id: str) -> Document:
    """The document, if this key may move its KV: also one that the operator's catalog file declares."""
    document = shelf.catalog.find(principal.viewer, document_id)
    principal.need("share" if document.owner == SHARED else "write")
    return document


async def _asked(request: Request[Any, Principal, Any], kind: type[T]) -> T:
    """The body, which may be left out."""
    body = await request.body()
    return decode(body or b"{}", kind)
