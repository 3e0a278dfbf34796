"""How questions without a document find theirs: the classifier's dry run, and fitting it to a tenant's own labelled questions."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, post
from litestar.di import NamedDependency
from msgspec import Meta

from backends.records import AuditEntry
from gateway.api.description import TAKES, Takes
from gateway.api.documents_api import decode
from gateway.api.limits_api import admission_of
from gateway.asking.second_look import SecondLook
from gateway.errors import Forbidden
from gateway.shelf.classifier import Classifier
from gateway.shelf.documents import Shelf
from gateway.shelf.tuning import MAX_QUESTIONS, Fitted, Tuning
from gateway.tenants.audit import AuditLog
from gateway.tenants.authenticator import Principal
from gateway.tenants.doors import actor_of, needs
from router.evaluation import Labelled
from router.matching import Match, Route


class RouteRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    question: str
    earlier: tuple[str, ...] = ()
    """What the user said before it: a conversation stays with its document until a question leaves it."""
    second_look: bool = False
    """Take a second look as well where a question would be given one (`routing.second_look` in the configuration)."""


class RouteView(msgspec.Struct, frozen=True):
    """`decision`: route, ambiguous or no_match; `document` and `score` only for a route, `volume` of a document in volumes."""

    decision: str
    document: str | None
    score: float | None
    candidates: tuple[Match, ...]
    volume: int | None = None


class FitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    questions: Annotated[tuple[Labelled, ...], Meta(min_length=1, max_length=MAX_QUESTIONS)]


class Reset(msgspec.Struct, frozen=True):
    """`was_fitted`: whether there was anything to undo."""

    was_fitted: bool


@post("/v1/route", status_code=200, tags=["routing"], opt=needs("ask") | {TAKES: Takes(RouteRequest)})
async def route(
    shelf: NamedDependency[Shelf],
    classifier: NamedDependency[Classifier],
    second_look: NamedDependency[SecondLook],
    request: Request[Any, Principal, Any],
) -> RouteView:
    """Which document a question would go to, with the candidates and their scores. Asks the engine for a second look only."""
    asked = decode(await request.body(), RouteRequest)
    catalog, turns = shelf.catalog, (*asked.earlier, asked.question)
    decision = await classifier.find(catalog, request.auth.viewer, turns)
    if asked.second_look:
        decision = await second_look.take(decision, request.auth.viewer, asked.question, admission_of(request.scope))
    found = decision if isinstance(decision, Route) else None
    tag = str(type(decision).__struct_config__.tag)
    if found is None:
        return RouteView(tag, None, None, decision.candidates)
    document, volume = catalog.find(request.auth.viewer, found.document), None
    if document.current is None and document.volumes:
        volume = document.volumes.index((await classifier.volume(catalog, request.auth.viewer, document, turns)).id) + 1
    return RouteView(tag, found.document, found.score, decision.candidates, volume)


@post("/v1/route/fit", status_code=200, tags=["routing"], opt=needs("write") | {TAKES: Takes(FitRequest)})
async def fit(
    shelf: NamedDependency[Shelf],
    tuning: NamedDependency[Tuning],
    audit: NamedDependency[AuditLog],
    request: Request[Any, Principal, Any],
) -> Fitted:
    """Fit this tenant's routing to labelled questions, say what that gives on questions held out, and keep it if it is better."""
    _need_all(request.auth)
    asked = decode(await request.body(), FitRequest)
    entry = _entry(audit, request, "routing.fit", questions=len(asked.questions))
    return await tuning.fit(shelf.catalog, request.auth.viewer, asked.questions, entry)


@delete("/v1/route/fit", status_code=200, tags=["routing"], opt=needs("write"))
async def reset(tuning: NamedDependency[Tuning], audit: NamedDependency[AuditLog], request: Request[Any, Principal, Any]) -> Reset:
    """Back to the parameters that kvshelf ships."""
    _need_all(request.auth)
    return Reset(await tuning.reset(request.auth.tenant, _entry(audit, request, "routing.reset")))


def _entry(audit: AuditLog, request: Request[Any, Principal, Any], action: str, **details: Any) -> AuditEntry:
    tenant = request.auth.tenant
    return audit.entry(actor_of(request), action, tenant, tenant, **details)


def _need_all(principal: Principal) -> None:
    """Raises Forbidden for a key that sees a part of its tenant's documents only: routing is fitted for all of them."""
    if principal.viewer.is_narrow:
        raise Forbidden("This key is narrowed to some documents, and routing is fitted for all of its tenant's.")
