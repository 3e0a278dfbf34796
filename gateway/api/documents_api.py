"""`/v1/documents` and `/v1/jobs`: a tenant's documents over HTTP, and how far their readings are.

What comes and goes as JSON is `gateway/api/documents_views.py`'s.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from backends.extract import NotText
from backends.extraction.extractor import MEDIA_TYPES, Extractor, Kind
from backends.records import AuditEntry
from gateway.api.description import GIVES, TAKES, Takes
from gateway.api.documents_views import (
    Changes,
    Deleted,
    DocumentList,
    DocumentView,
    DocumentViews,
    NewDocument,
)
from gateway.api.limits_api import admission_of
from gateway.errors import Forbidden
from gateway.shelf.documents import Shelf
from gateway.shelf.volumes import Volumes
from gateway.tenants.audit import AuditLog
from gateway.tenants.authenticator import Principal
from gateway.tenants.doors import actor_of, needs
from gateway.tenants.quotas import Quotas
from router.characters import ONE_LINE
from router.descriptors import guess_title
from router.documents import SHARED, Descriptor, Document, DocumentId, Owner, check_id, content_digest, slug
from router.errors import Conflict, InvalidRequest
from router.prompts import clean_text
from router.viewers import Viewer

T = TypeVar("T")


class DocumentsController(Controller):
    path = "/v1/documents"
    tags = ("documents",)

    @get(opt=needs("read"))
    async def list_documents(
        self, shelf: NamedDependency[Shelf], views: NamedDependency[DocumentViews], request: Request[Any, Principal, Any]
    ) -> DocumentList:
        """Every document that this key may ask."""
        return DocumentList([views.of(document, request.auth.tenant) for document in shelf.catalog.visible_to(request.auth.viewer)])

    @get("/{document_id:str}", opt=needs("read"))
    async def show_document(
        self,
        document_id: FromPath[str],
        shelf: NamedDependency[Shelf],
        views: NamedDependency[DocumentViews],
        request: Request[Any, Principal, Any],
    ) -> DocumentView:
        return views.of(shelf.catalog.find(request.auth.viewer, document_id), request.auth.tenant)

    @post(opt=needs("write", "share") | {TAKES: Takes(NewDocument, text=True), GIVES: {200: DocumentView, 202: DocumentView}})
    async def add_document(
        self,
        shelf: NamedDependency[Shelf],
        volumes: NamedDependency[Volumes],
        extractor: NamedDependency[Extractor],
        views: NamedDependency[DocumentViews],
        quotas: NamedDependency[Quotas],
        audit: NamedDependency[AuditLog],
        request: Request[Any, Principal, Any],
        document_id: Annotated[str | None, QueryParameter(name="id")] = None,
        title: Annotated[str | None, QueryParameter(max_length=300, pattern=ONE_LINE)] = None,
        shared: FromQuery[bool] = False,
    ) -> Response[DocumentView]:
        """Add a document or replace its content; it is read in the background (202), or is there already (200).

        The body is JSON (`NewDocument`), or the document itself with `id`, `title` and `shared` in the query: text as text/plain or
        text/markdown, a page as text/html, a PDF as application/pdf.
        """
        body = await request.body()
        kind = request.content_type[0]
        if kind == "application/json":
            new = decode(body, NewDocument)
        elif kind == "multipart/form-data":
            raise NotText("Send the text itself instead of a form, e.g. with: curl --data-binary @FILE", param="text")
        else:
            request.auth.need("share" if shared else "write")  # nobody else's file is worth a process
            text = await extractor.text(body, MEDIA_TYPES.get(kind, Kind.TEXT))
            new = NewDocument(text, document_id, title, shared=shared)
        return await _put(shelf, volumes, views, quotas, audit, request, new)

    @patch("/{document_id:str}", opt=needs("write", "share") | {TAKES: Takes(Changes)})
    async def change_document(
        self,
        document_id: FromPath[str],
        shelf: NamedDependency[Shelf],
        views: NamedDependency[DocumentViews],
        audit: NamedDependency[AuditLog],
        request: Request[Any, Principal, Any],
    ) -> DocumentView:
        """Change title, summary, tags or questions, and how long the document's KV is kept."""
        document = _own(shelf, request.auth, document_id)
        changes = decode(await request.body(), Changes)
        entry = _entry(audit, request, "document.change", document.owner, document.id)
        changed = await shelf.amend(
            document.owner, document.id, retention=changes.retention(), audit=(entry,), **changes.descriptor()
        )
        return views.of(changed, request.auth.tenant)

    @delete("/{document_id:str}", status_code=200, opt=needs("write", "share"))
    async def remove_document(
        self,
        document_id: FromPath[str],
        shelf: NamedDependency[Shelf],
        audit: NamedDependency[AuditLog],
        request: Request[Any, Principal, Any],
    ) -> Deleted:
        """Remove the document and its KV from every tier. Questions under way are still answered."""
        document = _own(shelf, request.auth, document_id)
        entry = _entry(audit, request, "document.remove", document.owner, document.id)
        await shelf.remove(document.owner, document.id, entry)
        return Deleted(document.id)


async def _put(
    shelf: Shelf,
    volumes: Volumes,
    views: DocumentViews,
    quotas: Quotas,
    audit: AuditLog,
    request: Request[Any, Principal, Any],
    new: NewDocument,
) -> Response[DocumentView]:
    principal = request.auth
    owner = SHARED if new.shared else Owner(principal.tenant)
    principal.need("share" if new.shared else "write")
    text = clean_text(new.text)
    title = new.title or guess_title(text, new.id or "Untitled")
    # A title without a Latin letter gives no id; the content then does, as one id for all such titles would mix them up.
    made_id = slug(title) or f"document-{content_digest(text)[:12]}"
    document_id = DocumentId(check_id(new.id) if new.id is not None else made_id)
    before = shelf.catalog.get(owner, document_id)
    if not _may_put(principal.viewer, document_id, before):
        raise Forbidden(f"This key is narrowed to some documents, and {document_id!r} is none of them.", param="id")
    if before is not None and before.source == "catalog":
        raise _from_catalog(before)
    descriptor = Descriptor(title, new.summary, new.tags, new.questions, new.aliases)
    entry = _entry(audit, request, "document.add" if before is None else "document.replace", owner, document_id)
    with quotas.adding(shelf.catalog, owner, document_id):
        document = await volumes.put(
            owner,
            document_id,
            text,
            descriptor,
            retention=new.retention(),
            audit=(entry,),
            payer=admission_of(request.scope),
        )
    view = views.of(document, principal.tenant)
    return Response(view, status_code=202 if view.job is not None else 200)


def _may_put(viewer: Viewer, document_id: DocumentId, before: Document | None) -> bool:
    """Whether this key may put a text in the place of `before`. A tag opens what has it, and nothing new: else the answer would
    tell which documents there are."""
    return not viewer.is_narrow or document_id in viewer.documents or (before is not None and viewer.permits(before))


def _entry(
    audit: AuditLog, request: Request[Any, Principal, Any], action: str, owner: Owner, document_id: DocumentId
) -> AuditEntry:
    details = {"shared": True} if owner == SHARED else {}
    return audit.entry(actor_of(request), action, document_id, request.auth.tenant, **details)


def _own(shelf: Shelf, principal: Principal, document_id: str) -> Document:
    """The document, if this key may change it. Raises NotFound, Forbidden or Conflict."""
    document = shelf.catalog.find(principal.viewer, document_id)
    principal.need("share" if document.owner == SHARED else "write")
    if document.source == "catalog":
        raise _from_catalog(document)
    return document


def _from_catalog(document: Document) -> Conflict:
    return Conflict(f"Document {document.id!r} is declared in the operator's catalog file; change it there.", param="document")


def decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body can't be used: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("The body can't be used: it is nested too deeply.") from error
